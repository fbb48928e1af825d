//! [`Registration`]: waiting until the agent has a module's route for the first time.

use std::time::{Duration, Instant};

use lars_proto::{HostAddr, ModuleId};

use super::Route;
use crate::{ClientError, RegisterError};

/// An agent waits for the route, so that one question is enough. Those of the original do not: there the first question
/// makes the agent fetch the route, and the following ones find it, as the C++ client's `reg_init` has it.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);

/// What follows from a try.
#[derive(Debug)]
pub(crate) enum Next {
    Done(Result<Vec<HostAddr>, RegisterError>),
    AskAgainAfter(Duration),
}

#[derive(Debug)]
pub(crate) struct Registration {
    module: ModuleId,
    tries_left: u32,
    deadline: Instant,
}

impl Registration {
    /// One that ends at `deadline`.
    pub(crate) const fn new(module: ModuleId, deadline: Instant) -> Self {
        Self { module, tries_left: TRIES, deadline }
    }

    /// Takes what the agent said to a question for the route.
    pub(crate) fn handle_route(&mut self, route: Result<Route, ClientError>, now: Instant) -> Next {
        self.tries_left = self.tries_left.saturating_sub(1);
        match route {
            Ok(Route { hosts, .. }) if !hosts.is_empty() => Next::Done(Ok(hosts)),
            Ok(Route { confirmed: false, .. }) if self.tries_left > 0 && now + PAUSE < self.deadline => {
                Next::AskAgainAfter(PAUSE)
            }
            Ok(_) => Next::Done(Err(RegisterError::NotFound(self.module))),
            Err(error) => Next::Done(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MODULE: ModuleId = ModuleId::new(1, 1);
    const HOST: HostAddr = HostAddr::v4(Ipv4Addr::LOCALHOST, 7777);
    const TIME: Duration = Duration::from_millis(200);

    fn route(hosts: &[HostAddr], confirmed: bool) -> Result<Route, ClientError> {
        Ok(Route { hosts: hosts.to_vec(), confirmed })
    }

    #[track_caller]
    fn check_not_found(next: Next) {
        assert!(matches!(next, Next::Done(Err(RegisterError::NotFound(MODULE)))), "{next:?}");
    }

    #[test]
    fn the_first_answer_of_an_agent_that_waits_ends_it() {
        let now = Instant::now();
        let mut registration = Registration::new(MODULE, now + TIME);
        let next = registration.handle_route(route(&[HOST], false), now);
        assert!(matches!(next, Next::Done(Ok(hosts)) if hosts == [HOST]));

        let mut registration = Registration::new(MODULE, now + TIME);
        check_not_found(registration.handle_route(route(&[], true), now));

        // The agent has waited for as long as it was told to.
        let mut registration = Registration::new(MODULE, now + TIME);
        check_not_found(registration.handle_route(route(&[], false), now + TIME.mul_f32(0.875)));

        let agent = ([127, 0, 0, 1], 8890).into();
        let timeout = ClientError::Timeout { agent, waited: TIME };
        let mut registration = Registration::new(MODULE, now + TIME);
        let next = registration.handle_route(Err(timeout), now + TIME);
        assert!(matches!(next, Next::Done(Err(RegisterError::Client(ClientError::Timeout { .. })))));
    }

    #[test]
    fn an_agent_of_the_original_is_asked_three_times() {
        let now = Instant::now();
        let mut registration = Registration::new(MODULE, now + TIME);
        for at in [now, now + PAUSE] {
            let next = registration.handle_route(route(&[], false), at);
            assert!(matches!(next, Next::AskAgainAfter(PAUSE)), "{next:?}");
        }
        check_not_found(registration.handle_route(route(&[], false), now + 2 * PAUSE));
    }
}
