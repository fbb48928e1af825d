//! [`Registration`]: waiting until the agent has a module's route for the first time.

use std::time::Duration;

use lars_proto::{HostAddr, ModuleId};

use crate::{ClientError, RegisterError};

/// As the C++ client's `reg_init` has it: the first question makes the agent fetch the route, and the
/// following ones find it there.
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
}

impl Registration {
    pub(crate) const fn new(module: ModuleId) -> Self {
        Self { module, tries_left: TRIES }
    }

    /// Takes what the agent said to a question for the route.
    pub(crate) fn handle_route(&mut self, route: Result<Vec<HostAddr>, ClientError>) -> Next {
        self.tries_left = self.tries_left.saturating_sub(1);
        match route {
            Ok(hosts) if !hosts.is_empty() => Next::Done(Ok(hosts)),
            Ok(_) | Err(_) if self.tries_left > 0 => Next::AskAgainAfter(PAUSE),
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

    fn timeout() -> ClientError {
        ClientError::Timeout { agent: ([127, 0, 0, 1], 8890).into(), waited: Duration::from_millis(200) }
    }

    #[test]
    fn the_first_route_with_hosts_ends_it() {
        let host = HostAddr::v4(Ipv4Addr::LOCALHOST, 7777);
        let mut registration = Registration::new(MODULE);
        assert!(matches!(registration.handle_route(Ok(vec![])), Next::AskAgainAfter(PAUSE)));
        assert!(
            matches!(registration.handle_route(Ok(vec![host])), Next::Done(Ok(hosts)) if hosts == [host])
        );
    }

    #[test]
    fn the_third_try_is_the_last_and_says_why() {
        let mut registration = Registration::new(MODULE);
        assert!(matches!(registration.handle_route(Err(timeout())), Next::AskAgainAfter(PAUSE)));
        assert!(matches!(registration.handle_route(Ok(vec![])), Next::AskAgainAfter(PAUSE)));
        let last = registration.handle_route(Ok(vec![]));
        assert!(matches!(last, Next::Done(Err(RegisterError::NotFound(MODULE)))));

        let mut registration = Registration { module: MODULE, tries_left: 1 };
        let last = registration.handle_route(Err(timeout()));
        assert!(matches!(last, Next::Done(Err(RegisterError::Client(ClientError::Timeout { .. })))));
    }
}
