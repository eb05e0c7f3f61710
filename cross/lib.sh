# shellcheck shell=sh disable=SC2154
# What the scripts of this folder share. Sourced with $root (the repository) set, which is then the working directory.

# Where everything goes that is made: never into the tree, never into a toolchain.
out=${CROSS_OUT:-$root/cross/out}

die() {
	echo "$(basename "$0"): $*" >&2
	exit 1
}

# step TEXT: ends the step before, with its time, and begins this one. step alone only ends.
step() {
	[ -z "${step_text:-}" ] || echo "== $step_text: $(($(date +%s) - step_start)) s"
	step_text=$*
	step_start=$(date +%s)
	[ -z "$step_text" ] || echo "== $step_text"
}

# All names of the table.
names() { sed '/^#/d' "$root/cross/targets" | awk '{ print $1 }'; }

# column NAME N: the table's Nth column of a target; from the 7th on, all that follow.
column() {
	awk -v name="$1" -v n="$2" '
		/^#/ || $1 != name { next }
		{ found = 1; if (n < 7) print $n; else for (i = 7; i <= NF; i++) print $i }
		END { exit !found }' "$root/cross/targets" || die "unknown target '$1'; there are: $(names | tr '\n' ' ')"
}

# venv NAME PACKAGE...: a Python environment of our own, $out/NAME, with packages from PyPI.
venv() {
	venv_path=$out/$1
	shift
	if [ "$(cat "$venv_path/packages" 2>/dev/null)" != "$*" ]; then
		rm -rf "$venv_path"
		python3 -m venv "$venv_path" || die "python3 with venv is missing (Debian: apt-get install python3-venv)"
		"$venv_path/bin/pip" install -q --disable-pip-version-check "$@"
		echo "$*" >"$venv_path/packages"
	fi
}

# debian PACKAGE...: installs what is missing of Debian's packages.
debian() {
	missing=
	for package; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	[ "$(id -u)" = 0 ] || die "these packages are missing: apt-get install --no-install-recommends$missing"
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing || {
		# The list of packages may be old, or not there at all.
		apt-get -q -o APT::Architectures="$(dpkg --print-architecture)" update
		DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing
	}
}
