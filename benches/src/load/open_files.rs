//! The limit on open files, which many connections meet first.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::LoadError;

/// What a process has open besides its connections.
const OTHERS: u64 = 64;

/// Makes room for `connections`, as far as the hard limit allows.
///
/// # Errors
/// If it does not allow as many.
pub(super) fn make_room(connections: usize) -> Result<(), LoadError> {
    let needed = connections as u64 + OTHERS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(std::io::Error::from)?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        return Err(LoadError::OpenFiles { hard, needed });
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(std::io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_low_a_limit_is_said_with_what_is_needed() {
        assert!(make_room(1).is_ok());
        // There is no limit above this one.
        let error = make_room(1 << 40).expect_err("too many");
        assert!(error.to_string().contains(&format!("{} are needed", (1_u64 << 40) + OTHERS)), "{error}");
    }
}
