//! Light paths: those of the small questions that an upstream answers beside a job, such as how far it is, or
//! that it is to stop.
//!
//! An agent names them to the hub and opens a few tunnels more, which take requests for these paths and no
//! others. So a small question needs no worker, and no job can come by a tunnel that is none. Both sides hold
//! to that: the hub by the classes of requests (`hub::classes`), the agent by a look at each
//! request.
//!
//! This module knows the list, how it is written, and what it covers.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::proto::http1::path;
use crate::proto::trust::agent_token::check_scope_path;

/// The tunnels that an agent opens for them beside its workers, for each upstream.
pub const TUNNELS: u32 = 4;
/// The most light paths of an agent. Each costs the hub a look at it when an agent joins that has other ones.
pub const MOST_PATHS: usize = 16;
/// The longest list in bytes. It stands in one field beside the token, and fronts have limits for both.
pub const LONGEST_LIST: usize = 1024;

/// Whether these can be the light paths of an agent. Each one is what a scope path may be, but not `/`, which
/// covers everything.
///
/// # Errors
/// What is wrong with them, in words.
pub fn check(paths: &[String]) -> Result<(), &'static str> {
    if paths.len() > MOST_PATHS || write(paths).len() > LONGEST_LIST {
        return Err("these are more than 16 paths, or longer than 1024 bytes together");
    }
    if paths.iter().any(|path| path == "/" || path.contains(',') || check_scope_path(path).is_err()) {
        return Err(
            "a light path begins with '/', is not '/' alone, and has no query and nothing that can be read in two ways",
        );
    }
    Ok(())
}

/// The list as the handshake has it.
pub fn write(paths: &[String]) -> String {
    paths.join(", ")
}

/// What the handshake has. `None` if no agent of ours would say so.
pub fn read(list: &str) -> Option<Vec<String>> {
    if list.len() > LONGEST_LIST {
        return None;
    }
    let paths: Vec<String> = list.split(',').map(|path| path.trim_ascii().to_owned()).collect();
    check(&paths).ok().map(|()| paths)
}

/// Whether one of them covers the path of a request, as scope paths do: segment by segment, and nothing that
/// upstreams may read differently.
pub fn cover(paths: &[String], path: &str) -> bool {
    !path::is_ambiguous(path) && paths.iter().any(|rule| path::matches(rule, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let paths = ["/v1/models", "/health", "/sdapi/v1/progress"].map(String::from);
        assert_eq!(read(&write(&paths)).unwrap(), paths);
        assert_eq!(read("/a,/b ,\t/c").unwrap(), ["/a", "/b", "/c"]);
        for wrong in ["", "/", "/a,", "a", "/a/", "/a?b", "/a/../b", "/a;b", "/%61", "/a b", "/a,/a//b"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let many = |count| vec!["/a".to_owned(); count];
        assert!(read(&write(&many(MOST_PATHS))).is_some() && read(&write(&many(MOST_PATHS + 1))).is_none());
        let long = |length: usize| vec![format!("/{}", "a".repeat(length - 1)); 4];
        assert!(check(&long(254)).is_ok() && check(&long(255)).is_err());
    }

    #[test]
    fn they_cover_what_is_below_them_and_can_be_read_in_one_way() {
        let paths = ["/v1/models".to_owned(), "/stop".to_owned()];
        for path in ["/v1/models", "/v1/models/", "/v1/models/a", "/stop"] {
            assert!(cover(&paths, path), "{path}");
        }
        for path in ["", "/", "/v1", "/v1/modelsx", "/stop/../job", "/stop;x", "/%73top", "//stop", "*"] {
            assert!(!cover(&paths, path), "{path}");
        }
    }
}
