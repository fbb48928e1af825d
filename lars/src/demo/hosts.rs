//! The servers behind the demo's module.

use std::io;

use fastrand::Rng;

use super::{
    backend::{Backend, DeadPort},
    cast::{Cast, ROLES, Role},
};

/// How many of a hundred requests the flaky host fails.
pub(crate) const FLAKY_FAILED_PERCENT: u8 = 80;

/// One server for each role, running.
pub(crate) struct Hosts {
    pub(crate) cast: Cast,
    /// All but the dead one.
    backends: Vec<Backend>,
    _dead: DeadPort,
}

impl Hosts {
    pub(crate) fn start() -> io::Result<Self> {
        let dead = DeadPort::take()?;
        let mut backends = Vec::new();
        let mut hosts = [dead.host(); ROLES.len()];
        for (n, role) in ROLES.into_iter().enumerate().filter(|(_, role)| *role != Role::Dead) {
            let failed_percent = if role == Role::Flaky { FLAKY_FAILED_PERCENT } else { 0 };
            let backend = Backend::start(failed_percent, Rng::with_seed(n as u64))?;
            hosts[n] = backend.host();
            backends.push(backend);
        }
        Ok(Self { cast: Cast::new(hosts), backends, _dead: dead })
    }

    /// From now on the host that plays `role` answers every request.
    pub(crate) fn repair(&self, role: Role) {
        let host = self.cast.host(role);
        self.backends.iter().filter(|backend| backend.host() == host).for_each(Backend::repair);
    }
}
