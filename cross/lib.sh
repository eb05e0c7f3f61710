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

# old_names PACKAGE FOLDER PLACE: a repository of apt in FOLDER, which is PLACE where it is used. It has the package and what stands
# for Debian's slime. Beside them is old.deb: the package as it was until 0.1.0, when it was called slime.
old_names() {
	rm -rf "$2"
	mkdir -p "$2/emacs/DEBIAN" "$2/emacs/usr/share/slime-of-emacs"
	cp "$1" "$2/"
	printf '%s\n' 'Package: slime' 'Version: 2:2.27+dfsg-1' 'Architecture: all' 'Maintainer: nobody <nobody@example.invalid>' \
		'Description: stands for the mode of Emacs' >"$2/emacs/DEBIAN/control"
	dpkg-deb --root-owner-group -b "$2/emacs" "$2/emacs.deb" >/dev/null
	dpkg-deb -R "$1" "$2/old"
	rm "$2/old/DEBIAN/preinst" "$2/old/DEBIAN/md5sums"
	mv "$2/old/usr/share/doc/slime-proxy" "$2/old/usr/share/doc/slime"
	sed -i 's/^Package: .*/Package: slime/; s/^Version: .*/Version: 0.1.0/; /^Conflicts:/d; /^Replaces:/d' "$2/old/DEBIAN/control"
	dpkg-deb --root-owner-group -b "$2/old" "$2/old.deb" >/dev/null
	rm -r "$2/emacs" "$2/old"
	(
		cd "$2" || exit
		for file in emacs.deb slime-proxy_*.deb; do
			dpkg-deb -f "$file"
			printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "$file")" "$(sha256sum "$file" | cut -d ' ' -f 1)"
		done >Packages
		echo "deb [trusted=yes] file:$3 ./" >sources.list
	)
}
