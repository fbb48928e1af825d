//! `lars get-host`, `get-route` and `report`: one question to the agent, or one message.

use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use lars_client::{Client, ClientConfig, ClientError, GetHostError, Host, HostAddr, ModuleId, Outcome};
use serde::Serialize;

use crate::{
    cli::{AgentArgs, LookupArgs, OutcomeArgs, ReportArgs},
    exit::Failure,
    out::Out,
};

/// Between two questions where nobody serves the module yet, as far as lars-dns knows: it reads edits once a second.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A client of the agent that the flags name.
pub(super) fn client(agent: &AgentArgs) -> Result<Client, Failure> {
    client_with(agent.client_config())
}

fn client_with(config: ClientConfig) -> Result<Client, Failure> {
    match Client::with_config(config) {
        Err(ClientError::Config { key, problem }) => Err(Failure::AgentFlag { flag: flag(key), problem }),
        made => Ok(made?),
    }
}

/// The flag of a field of the client's configuration.
fn flag(field: &str) -> &'static str {
    match field {
        "base_port" => "--agent-base-port",
        "shards" => "--agent-shards",
        _ => "--timeout-ms",
    }
}

pub(crate) fn get_host(args: &LookupArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let module = args.module.id();
    let client = client_with(args.agent.patient_client_config())?;
    let host = patiently(args.agent.wait(), may_come_later, || client.get_host(module))?;
    Ok(if args.json { write_host_json(&host, out.data()) } else { writeln!(out.data(), "{}", host.addr) }?)
}

pub(crate) fn get_route(args: &LookupArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let module = args.module.id();
    let hosts = route(module, &args.agent)?;
    if args.json {
        return Ok(write_route_json(module, &hosts, out.data())?);
    }
    for host in hosts {
        writeln!(out.data(), "{host}")?;
    }
    Ok(())
}

pub(crate) fn report(args: &ReportArgs, out: &mut Out<'_>) -> Result<(), Failure> {
    let (module, host) = (args.module.id(), args.host);
    let client = client(&args.agent)?;
    // Reports are not answered. That there is an agent, and that it knows the host, has to be asked.
    if !route(module, &args.agent)?.contains(&host) {
        return Err(Failure::UnknownHost { module, host });
    }
    client.report(&Host::new(module, host), outcome(args.outcome));
    out.note(format_args!(
        "reported {host} of module {module}; it shows in `lars status` in a second or two"
    ))?;
    Ok(())
}

/// The hosts of a module, of which there is at least one.
pub(super) fn route(module: ModuleId, agent: &AgentArgs) -> Result<Vec<HostAddr>, Failure> {
    let client = client_with(agent.patient_client_config())?;
    let ask = || match client.get_route(module) {
        Ok(hosts) if hosts.is_empty() => Err(Failure::UnknownModule(module)),
        answer => Ok(answer?),
    };
    let may_come = |failure: &Failure| {
        matches!(failure, Failure::UnknownModule(_) | Failure::Client(ClientError::AgentUnreachable { .. }))
    };
    patiently(agent.wait(), may_come, ask)
}

/// An agent that is still to be started, or a module that has just been added.
fn may_come_later(error: &GetHostError) -> bool {
    matches!(error, GetHostError::NotFound(_) | GetHostError::AgentUnreachable { .. })
}

/// Asks until there is an answer, for as long as another may still come and `wait` lasts. Asks at least once.
fn patiently<T, E>(
    wait: Duration,
    may_come: impl Fn(&E) -> bool,
    mut ask: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + wait;
    loop {
        match ask() {
            Err(error) if may_come(&error) && Instant::now() < deadline => thread::sleep(ASK_AGAIN_AFTER),
            answer => return answer,
        }
    }
}

fn outcome(args: OutcomeArgs) -> Outcome {
    match args.retcode {
        Some(0) => Outcome::Success,
        Some(code) => Outcome::Failure(code),
        None if args.ok => Outcome::Success,
        None => Outcome::Failure(-1),
    }
}

#[derive(Serialize)]
struct HostJson {
    modid: i32,
    cmdid: i32,
    host: String,
}

fn write_host_json(host: &Host, out: &mut dyn Write) -> io::Result<()> {
    let ModuleId { modid, cmdid } = host.module;
    serde_json::to_writer(&mut *out, &HostJson { modid, cmdid, host: host.addr.to_string() })?;
    writeln!(out)
}

#[derive(Serialize)]
struct RouteJson {
    modid: i32,
    cmdid: i32,
    hosts: Vec<String>,
}

fn write_route_json(module: ModuleId, hosts: &[HostAddr], out: &mut dyn Write) -> io::Result<()> {
    let ModuleId { modid, cmdid } = module;
    let hosts = hosts.iter().map(HostAddr::to_string).collect();
    serde_json::to_writer(&mut *out, &RouteJson { modid, cmdid, hosts })?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes() {
        let args = |ok, failed, retcode| outcome(OutcomeArgs { ok, failed, retcode });
        assert_eq!(args(true, false, None), Outcome::Success);
        assert_eq!(args(false, true, None), Outcome::Failure(-1));
        assert_eq!(args(false, false, Some(0)), Outcome::Success);
        assert_eq!(args(false, false, Some(-7)), Outcome::Failure(-7));
    }

    #[test]
    fn without_patience_one_question_is_asked() {
        let mut asked = 0;
        let answer: Result<(), &str> = patiently(
            Duration::ZERO,
            |_| true,
            || {
                asked += 1;
                Err("no")
            },
        );
        assert_eq!((answer, asked), (Err("no"), 1));
    }

    #[test]
    fn patience_ends_where_nothing_can_come() {
        let mut answers = [Err("later"), Err("never"), Ok(())].into_iter();
        let ask = || answers.next().unwrap_or(Ok(()));
        assert_eq!(patiently(Duration::from_secs(600), |error| *error == "later", ask), Err("never"));
    }
}
