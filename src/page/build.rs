//! Presses the status page into one file: style and scripts go into `index.html`, comments and indentation
//! go, and what is left is compressed.
//!
//! `OUT_DIR` then has `page.html.gz`, and beside it the values of the two fields that depend on its bytes:
//! `etag.txt` and `csp.txt`. Without the feature `net` nothing is made.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/page");
    #[cfg(feature = "net")]
    press::page()?;
    Ok(())
}

#[cfg(feature = "net")]
mod press {
    use std::error::Error;
    use std::io::Write;
    use std::path::Path;
    use std::{env, fs};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use flate2::{Compression, GzBuilder};
    use sha2::{Digest, Sha256};

    pub(crate) fn page() -> Result<(), Box<dyn Error>> {
        let sources = Path::new("src/page");
        let (mut style, mut script, mut html) = (String::new(), String::new(), String::new());
        for line in fs::read_to_string(sources.join("index.html"))?.lines() {
            let line = line.trim();
            if let Some(file) = between(line, "<link rel=\"stylesheet\" href=\"", "\">") {
                style.push_str(&bare(&fs::read_to_string(sources.join(file))?, "{};,>")?);
                html.push_str("<style>@style@</style>\n");
            } else if let Some(file) = between(line, "<script src=\"", "\"></script>") {
                if script.is_empty() {
                    html.push_str("<script>@script@</script>\n");
                }
                script.push_str(&bare(&fs::read_to_string(sources.join(file))?, "=?:,;{}()<>&|*")?);
            } else if !line.is_empty() {
                html.push_str(line);
                html.push('\n');
            }
        }
        let csp = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'",
            hash(&script),
            hash(&style),
        );
        let page = html.replacen("@style@", &style, 1).replacen("@script@", &script, 1);
        // Neither a time nor a name in its head: the same sources give the same bytes.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(page.as_bytes())?;
        let gzip = gzip.finish()?;
        let etag: String = Sha256::digest(&gzip).iter().take(8).map(|byte| format!("{byte:02x}")).collect();

        let out = env::var("OUT_DIR")?;
        let out = Path::new(&out);
        fs::write(out.join("page.html.gz"), gzip)?;
        fs::write(out.join("etag.txt"), format!("\"{etag}\""))?;
        fs::write(out.join("csp.txt"), csp)?;
        Ok(())
    }

    fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
        line.strip_prefix(before)?.strip_suffix(after)
    }

    /// `source` without indentation, empty lines, comments that have lines of their own, and the blanks
    /// around `marks` outside of strings. What this would break is refused: strings and comments of several
    /// lines, and a source that ends its element.
    fn bare(source: &str, marks: &str) -> Result<String, String> {
        let mut bare = String::with_capacity(source.len());
        for line in source.lines().map(str::trim) {
            if line.is_empty() || line.starts_with("//") || line.starts_with("/*") && line.ends_with("*/") {
                continue;
            }
            if ["`", "/*", "</script", "</style", "<!--"].iter().any(|what| line.contains(what)) {
                return Err(format!("the page cannot be pressed with this line in it: {line}"));
            }
            let (mut string, mut escaped) = (None, false);
            for (at, c) in line.char_indices() {
                let beside = bare.ends_with(|last| marks.contains(last))
                    || line[at + 1..].starts_with(|next| marks.contains(next));
                if string.is_none() && c == ' ' && beside {
                    continue;
                }
                match string {
                    Some(quote) if c == quote && !escaped => string = None,
                    None if matches!(c, '\'' | '"') => string = Some(c),
                    Some(_) | None => {}
                }
                escaped = c == '\\' && !escaped;
                bare.push(c);
            }
            if string.is_some() {
                return Err(format!("a string does not end in this line: {line}"));
            }
            // A line that cannot be the end of a statement goes on.
            if !bare.ends_with(|last| "{(,;=?:&|".contains(last)) {
                bare.push('\n');
            }
        }
        Ok(bare)
    }

    fn hash(text: &str) -> String {
        STANDARD.encode(Sha256::digest(text))
    }
}
