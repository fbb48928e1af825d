//! What the demo tells, in lines of at most 80 columns. The letters are those of [`super::cast::ROLES`].

use std::time::Duration;

use super::{CALLERS, PROBE_NUM, cast::MODULE, hosts::FLAKY_FAILED_PERCENT, script::Cue};

/// What there is to see.
pub(crate) fn welcome() -> String {
    format!(
        "Lars tells programs which host to call.\n\n\
         Here is all of it in one process, over an SQLite file in a temporary folder:\n\
         lars-dns serves routes, lars-agent picks hosts, lars-reporter stores how calls\n\
         went. {CALLERS} callers ask the agent for a host, call it over TCP, and report.\n\n\
         1. Five hosts serve module {MODULE}. A, B and C are healthy, D fails {} calls of 10,\n   \
         E is dead and refuses connections. At first all of them get calls.",
        FLAKY_FAILED_PERCENT / 10,
    )
}

/// What happens now, and why. `edit_took` is the time until a caller saw the edit, if one has.
pub(crate) fn headline(cue: Cue, edit_took: Duration) -> String {
    match cue {
        Cue::Ejected => format!(
            "\n2. D and E failed so often that the agent ejected them. They are overloaded and\n   \
                 get only probes, one lookup in {}, to see whether they recover.",
            PROBE_NUM + 1
        ),
        Cue::Repair => {
            "\n3. D is repaired. Its probes succeed from now on, and the agent takes it back.".into()
        }
        Cue::EditRoute => {
            "\n4. D is back. Now the route is edited in SQL: C leaves, F joins. lars-dns looks\n   \
                 for changes every second and pushes this one to the agent."
                .into()
        }
        Cue::Arrived => format!(
            "\n5. Callers got F {} ms after the edit began, and C no more.\n   \
                 A, B, D and F share the calls, E is still probed.",
            edit_took.as_millis()
        ),
        Cue::End => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_a_terminal() {
        let cues = [Cue::Ejected, Cue::Repair, Cue::EditRoute, Cue::Arrived];
        let headlines = cues.map(|cue| headline(cue, Duration::from_secs(8)));
        for line in headlines.iter().map(String::as_str).chain([welcome().as_str()]).flat_map(str::lines) {
            assert!(line.chars().count() <= 80, "too long: {line}");
        }
    }
}
