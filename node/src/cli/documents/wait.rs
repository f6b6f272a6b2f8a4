//! `--wait`: asking one agent until every live member is known to use what was applied, or a later generation of it.
//!
//! The agent knows by the digest that each member tells which documents it uses ([`crate::api::convergence`]). A suspect is
//! waited for like a live member: it is cut off or slow, and nobody has found it dead. One that is found dead meanwhile
//! counts no more, and that is said.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use starling_model::{DocumentKey, codes};

use super::{PAGE, Wanted, label_of, list, look_up, parse, signer_of};
use crate::api::views::{
    Convergence, Document, DocumentConvergence, DocumentVersion, Envelope, MemberConvergence, MemberList,
};
use crate::cli::client::{Ask, Client};
use crate::cli::errors::{CliError, Exit};
use crate::cli::figures;
use crate::cli::output;
use crate::cli::table::clean;

/// Pause between two looks at the others.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Laggards that are named.
const NAMED_MAX: usize = 20;

/// A generation that is to be in use everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    key: DocumentKey,
    generation: u64,
    deleted: bool,
    digest: String,
}

impl Awaited {
    /// As the agent tells it.
    pub(super) fn of(document: &Document) -> Result<Self, CliError> {
        let Document { document_kind, namespace, name, generation, deleted, digest, .. } = document.clone();
        let key = DocumentKey::parse(&document_kind, &namespace, &name);
        let key = key.map_err(|error| {
            CliError::plain(Exit::Bad, "the agent's answer is not understood").cause(error.to_string())
        })?;
        Ok(Self { key, generation, deleted, digest })
    }

    /// True while it is to be in use and the agent shows nothing of it: not yet, or no more.
    fn is_missing(&self, now: &Convergence) -> bool {
        !self.deleted && self.item(now).is_none()
    }

    /// A later generation deletes it: that one is waited for, since it is later than what was asked for.
    fn overtake(&mut self, held: &Document) -> bool {
        let overtaken = held.deleted && held.generation > self.generation;
        if overtaken {
            (self.generation, self.deleted) = (held.generation, true);
            self.digest.clone_from(&held.digest);
        }
        overtaken
    }

    fn item<'a>(&self, now: &'a Convergence) -> Option<&'a DocumentConvergence> {
        now.items.iter().find(|item| {
            item.document_kind == self.key.kind.as_str()
                && item.namespace == self.key.namespace.as_str()
                && item.name == self.key.name.as_str()
        })
    }
}

/// All use it.
#[derive(Debug)]
pub(super) struct Done {
    alive: u64,
    after: Duration,
}

impl fmt::Display for Done {
    /// `in use on 3/3 alive members after 0.42 s`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in use on {0}/{0} alive members after {1:.2} s", self.alive, self.after.as_secs_f64())
    }
}

/// Waits.
///
/// # Errors
/// Exit 6 with the names of the laggards; ST0413 when another content of the same generation won.
pub(super) fn wait(client: &Client, awaited: &[Awaited], timeout: Duration) -> Result<Done, CliError> {
    let began = Instant::now();
    let mut known = BTreeMap::new();
    let mut awaited = awaited.to_vec();
    loop {
        let convergence = converged(client)?;
        for one in awaited.iter_mut().filter(|one| one.is_missing(&convergence)) {
            if let Some(held) = look_up(client, &one.key, Wanted::Held)?
                && one.overtake(&held.body)
            {
                let (by, generation) = (signer_of(&held.body.signer), one.generation);
                output::message(&format!(
                    "{} is deleted meanwhile: generation {generation} by {by}\n",
                    label_of(&one.key)
                ));
            }
        }
        let awaited = &awaited[..];
        let members: MemberList = parse(&client.ask(Ask::get("/v1/members"))?.body)?;
        let laggards = laggards(awaited, &convergence, &members, &mut known);
        let after = began.elapsed();
        if laggards.is_empty() {
            outvoted(client, awaited)?;
            tell_dead(&members, after);
            return Ok(Done { alive: convergence.in_use.alive, after });
        }
        if after >= timeout {
            return Err(too_late(awaited, &laggards, timeout));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// The agent's pages of all documents as one.
fn converged(client: &Client) -> Result<Convergence, CliError> {
    let mut whole: Option<Convergence> = None;
    let mut cursor = String::new();
    loop {
        let answer = client.ask(Ask::get(&format!("/v1/config/convergence?limit={PAGE}{cursor}")))?;
        let page: Envelope<Convergence> = parse(&answer.body)?;
        let mut page = page.body;
        let next = page.next.take().filter(|_| !page.items.is_empty());
        // What the last page says of the whole is the newest.
        if let Some(mut before) = whole.take() {
            before.items.append(&mut page.items);
            page.items = before.items;
        }
        match next {
            Some(next) => (cursor, whole) = (format!("&cursor={next}"), Some(page)),
            None => return Ok(page),
        }
    }
}

/// What was last known of each laggard: lines without when it was seen.
type Known = BTreeMap<String, Vec<String>>;

/// Who is not known to use what is awaited, each as a part of a sentence. What a suspect uses is what was known of it
/// before the doubt.
fn laggards(awaited: &[Awaited], now: &Convergence, members: &MemberList, known: &mut Known) -> Vec<String> {
    let several = awaited.len() > 1;
    let mut told = Vec::new();
    let suspects: Vec<&str> = members
        .body
        .items
        .iter()
        .filter(|member| member.state == "suspect")
        .map(|member| member.name.as_str())
        .collect();
    known.retain(|node, _| suspects.contains(&node.as_str()));
    for one in awaited {
        let name = if several { format!("{}: ", label_of(&one.key)) } else { String::new() };
        for (node, what) in one.behind(now, &members.view.node) {
            let line = format!("{name}{node} {what}");
            told.push(format!("{line}{}", seen(members, &node)));
            if !suspects.contains(&node.as_str()) {
                known.entry(node).or_default().push(line);
            }
        }
    }
    for node in suspects {
        let silent = || vec![format!("{node} does not answer")];
        let lines = known.get(node).cloned().unwrap_or_else(silent);
        told.extend(lines.into_iter().map(|line| format!("{line}{}", seen(members, node))));
    }
    told
}

impl Awaited {
    /// Members that are behind, and what is known of each.
    fn behind(&self, now: &Convergence, agent: &str) -> Vec<(String, String)> {
        match self.item(now) {
            Some(item)
                if item.generation >= self.generation && !(self.deleted && item.generation == self.generation) =>
            {
                let mut behind: Vec<_> = item.behind.iter().map(|one| (one.node.clone(), one.tell())).collect();
                let more = item.behind_count.saturating_sub(u64::try_from(behind.len()).unwrap_or(u64::MAX));
                if more > 0 {
                    behind.push((format!("and {more}"), "more".to_owned()));
                }
                behind
            }
            // Gone here. A member's root tells of deletions only as part of the whole, so all that differ are waited for.
            None if self.deleted => {
                let behind = now.holding.as_ref().map_or(&now.behind, |holding| &holding.behind);
                behind.iter().map(|node| (node.clone(), "holds other documents".to_owned())).collect()
            }
            // The agent's picture follows its own answer by some milliseconds.
            Some(_) | None => vec![(agent.to_owned(), "does not use it yet".to_owned())],
        }
    }
}

impl MemberConvergence {
    fn tell(&self) -> String {
        let why = match self.held_back.as_deref() {
            Some(why @ ("panicked" | "timed_out" | "crashed")) => format!(": quarantined there ({why})"),
            Some(why) => format!(": held back there ({why})"),
            None => String::new(),
        };
        match (self.state.as_str(), self.generation) {
            (_, Some(generation)) => format!("still on generation {generation}{why}"),
            ("behind", None) if why.is_empty() => "does not have it yet".to_owned(),
            ("behind", None) => format!("has none in use{why}"),
            (_, None) => "on an unknown generation".to_owned(),
        }
    }
}

/// `, last seen 2 s ago`; empty for who was never heard.
fn seen(members: &MemberList, node: &str) -> String {
    let member = members.body.items.iter().find(|member| member.name == node);
    let heard = member.and_then(|member| member.last_seen.as_deref());
    let seconds = heard.and_then(|heard| figures::seconds_between(heard, &members.view.as_of));
    seconds.map(|seconds| format!(", last seen {} ago", figures::age_in_words(seconds))).unwrap_or_default()
}

/// Another content of the same generation won over ours, or lost to it: both signers are told.
fn outvoted(client: &Client, awaited: &[Awaited]) -> Result<(), CliError> {
    let used = list(client)?;
    for one in awaited {
        let rivals = used.body.items.iter().find(|item| {
            item.conflict.is_some()
                && item.generation == one.generation
                && (item.document_kind.as_str(), item.namespace.as_str(), item.name.as_str())
                    == (one.key.kind.as_str(), one.key.namespace.as_str(), one.key.name.as_str())
        });
        let Some(item) = rivals else { continue };
        let others: Vec<&DocumentVersion> =
            item.conflict.iter().flatten().filter(|version| version.digest != one.digest).collect();
        let by = others.iter().map(|version| signer_of(&version.signer)).collect::<Vec<_>>().join(", ");
        let what = format!("generation {} of {} was also signed by {by} with another content", one.generation, one.key);
        if item.digest == one.digest {
            let code = codes::DOCUMENT_CONFLICT;
            output::message(&format!(
                "warning[{code}]: {what}; this one is in use everywhere\n  help:  agree with them; the next generation ends it\n"
            ));
        } else {
            return Err(CliError::coded(
                Exit::Refused,
                codes::DOCUMENT_CONFLICT,
                format!("{what}, and that one is in use"),
            ));
        }
    }
    Ok(())
}

/// Members that were found dead while we waited.
fn tell_dead(members: &MemberList, waited: Duration) {
    for member in members.body.items.iter().filter(|member| member.state == "failed") {
        let since = figures::seconds_between(&member.since, &members.view.as_of);
        if since.is_some_and(|since| since <= waited.as_secs()) {
            output::message(&format!(
                "{} failed meanwhile and is not counted; it takes what it missed when it is back\n",
                clean(&member.name)
            ));
        }
    }
}

fn too_late(awaited: &[Awaited], laggards: &[String], timeout: Duration) -> CliError {
    let what = match awaited {
        [one] => format!("{} generation {}", label_of(&one.key), one.generation),
        _ => format!("all of {} documents", awaited.len()),
    };
    let verb = if awaited.len() == 1 { "is" } else { "are" };
    let waited = starling_config::duration::format(timeout);
    let mut lines: Vec<String> = laggards.iter().take(NAMED_MAX).cloned().collect();
    if laggards.len() > NAMED_MAX {
        lines.push(format!("and {} more", laggards.len().saturating_sub(NAMED_MAX)));
    }
    CliError::coded(
        Exit::TimedOut,
        codes::MEMBERS_DIFFER,
        format!("{what} {verb} not in use everywhere after {waited}"),
    )
    .cause(lines.join("\n"))
    .help(["it spreads by itself; who uses it:  starling get     who answers:  starling members"])
}

#[cfg(test)]
mod tests;
