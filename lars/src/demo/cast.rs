//! Who is on stage: the hosts of the demo's module, each with a part to play.

use lars_proto::{HostAddr, ModuleId};

/// The module of the demo.
pub(crate) const MODULE: ModuleId = ModuleId::new(1, 1);

/// What a host does in the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Answers, from the first to the last call.
    Healthy,
    /// Answers, and is taken out of the route.
    Leaving,
    /// Fails most calls, until it is repaired.
    Flaky,
    /// Refuses every connection.
    Dead,
    /// Answers; comes into the route when the other leaves.
    Joining,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Leaving => "healthy, leaves",
            Self::Flaky => "flaky at first",
            Self::Dead => "dead",
            Self::Joining => "healthy, joins",
        }
    }
}

/// The parts, in the order of their letters.
pub(crate) const ROLES: [Role; 6] =
    [Role::Healthy, Role::Healthy, Role::Leaving, Role::Flaky, Role::Dead, Role::Joining];

/// A host with its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// What the demo calls it.
    pub(crate) letter: char,
    pub(crate) role: Role,
    pub(crate) host: HostAddr,
}

/// All hosts of the demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cast {
    members: Vec<Member>,
}

impl Cast {
    /// One host for each of [`ROLES`].
    pub(crate) fn new(hosts: [HostAddr; ROLES.len()]) -> Self {
        let parts = ('A'..).zip(ROLES).zip(hosts);
        Self { members: parts.map(|((letter, role), host)| Member { letter, role, host }).collect() }
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The hosts that play one of `roles`.
    pub(crate) fn hosts<'a>(&'a self, roles: &'a [Role]) -> impl Iterator<Item = HostAddr> + 'a {
        self.members.iter().filter(|member| roles.contains(&member.role)).map(|member| member.host)
    }

    /// The one host that plays `role`.
    pub(crate) fn member(&self, role: Role) -> Member {
        let found = self.members.iter().find(|member| member.role == role);
        *found.expect("every role is cast")
    }

    pub(crate) fn host(&self, role: Role) -> HostAddr {
        self.member(role).host
    }
}
