//! What is in order at a host and what is not: the lines of `starling check` and `/v1/checks`. Pure: facts come in, lines
//! come out. The agent gathers them from its snapshots; without an agent the command gathers what the files say.

use starling_identity::{PeerRefused, UnixTime};
use starling_model::codes::{self, Level};
use starling_model::{Code, NodeName};

use crate::api::views::{CheckLine, StatusProblem};

/// A leaf that ends sooner was not renewed when it was due: after 6 h there are 18 left.
const LEAF_LEFT_SECONDS_MIN: u64 = 12 * 3_600;
/// Life of a leaf: with its end it tells when its node made it, by that node's clock.
const LEAF_SECONDS: u64 = starling_identity::leaf::LEAF_SECONDS;
/// A certificate that was made later than this after our own clock's reading shows that the clocks differ. News of it takes
/// a moment to come here, which only makes it look older.
const CLOCK_AHEAD_SECONDS_MAX: u64 = 2;
/// Names in one line.
const NAMES_MAX: usize = 5;

/// What a node's certificates say.
#[derive(Clone, Copy, Debug)]
pub struct Certificates {
    /// The clock.
    pub now: UnixTime,
    /// End of the identity.
    pub not_after: UnixTime,
    /// Under 20 % of its life is left.
    pub is_ending: bool,
    /// It leads to a root in force.
    pub is_chained: bool,
    /// An operator has revoked it.
    pub is_revoked: bool,
    /// End of the leaf in use, and when it was made.
    pub leaf: (UnixTime, UnixTime),
}

/// What a live member tells about its trust.
#[derive(Clone, Debug)]
pub struct MemberTrust {
    /// Who.
    pub name: NodeName,
    /// The bundle that it uses.
    pub bundle_sequence: u64,
    /// End of its leaf, by its own clock; zero while unknown.
    pub leaf_not_after: u64,
}

/// One line that is in order.
#[must_use]
pub fn good(group: &str, text: String) -> CheckLine {
    CheckLine { group: group.to_owned(), level: "ok".to_owned(), text, code: String::new(), help: String::new() }
}

/// One line that is not, with the catalogue's own help.
#[must_use]
pub fn bad(group: &str, code: Code, text: String) -> CheckLine {
    let level = match code.level {
        Level::Error => "error",
        Level::Warning => "warning",
    };
    let (group, level, code, help) = (group.to_owned(), level.to_owned(), code.to_string(), code.help.to_owned());
    CheckLine { group, level, text, code, help }
}

/// One line that somebody should look at and that no entry of the catalogue is for.
#[must_use]
pub fn odd(group: &str, text: String, help: &str) -> CheckLine {
    CheckLine { level: "warning".to_owned(), help: help.to_owned(), ..good(group, text) }
}

/// Expiry, chain, revocation, leaf.
#[must_use]
pub fn certificates(facts: &Certificates) -> Vec<CheckLine> {
    let now = facts.now;
    let mut lines = Vec::new();
    if facts.is_revoked {
        lines.push(bad("trust", codes::REVOKED, "an operator has revoked this node: others refuse it".to_owned()));
    }
    let left = days(now.until(facts.not_after).as_secs());
    if facts.not_after < now {
        let text = format!("certificate ended {}, it is {now}", facts.not_after);
        lines.push(bad("trust", codes::CERTIFICATE_EXPIRED, text));
    } else if !facts.is_chained {
        let text = "certificate leads to no root in force: this node missed a rotation and has no new one".to_owned();
        lines.push(bad("trust", codes::CERTIFICATE_EXPIRED, text));
    } else if facts.is_ending {
        let text = format!("certificate {left} left, under 20 % of its life; it ends {}", facts.not_after);
        lines.push(bad("trust", codes::CERTIFICATE_ENDING, text));
    } else {
        lines.push(good("trust", format!("certificate {left} left, chains to the bundle")));
    }
    let (leaf_end, leaf_since) = facts.leaf;
    // It cannot outlive the certificate above it, which has its own line.
    if now.until(leaf_end).as_secs() < LEAF_LEFT_SECONDS_MIN && leaf_end < facts.not_after {
        let text = format!("the leaf was not renewed since {leaf_since}; it ends {leaf_end}");
        let help = "the agent makes it itself every 6 h: its log says what stops it (journalctl -u starling), a restart makes a new one";
        lines.push(CheckLine { help: help.to_owned(), ..bad("trust", codes::CERTIFICATE_ENDING, text) });
    } else {
        lines.push(good("trust", format!("leaf made {leaf_since}, ends {leaf_end}")));
    }
    lines
}

/// Who uses another bundle than we do.
#[must_use]
pub fn bundles(sequence: u64, fingerprint: &str, members: &[MemberTrust]) -> CheckLine {
    let others: Vec<String> = members
        .iter()
        .filter(|member| member.bundle_sequence != sequence)
        .map(|member| format!("{} uses {}", member.name, member.bundle_sequence))
        .collect();
    if others.is_empty() {
        let who = match members.len() {
            0 | 1 => "this node uses".to_owned(),
            count => format!("all {count} members use"),
        };
        return good("trust", format!("{who} trust bundle sequence {sequence}, {fingerprint}"));
    }
    let text = format!("this node uses trust bundle {sequence}, {}", first(&others));
    CheckLine {
        help: "normal for a moment; if it stays: starling trust update --wait in the operator's folder".to_owned(),
        ..bad("trust", codes::BUNDLE_FORKED, text)
    }
}

/// Members that use something else than we do: what is asked here may be otherwise there.
#[must_use]
pub fn differs(text: String) -> CheckLine {
    CheckLine { level: "error".to_owned(), ..bad("agreement", codes::MEMBERS_DIFFER, text) }
}

/// A shared issuer is a mode of its own, and stays told.
#[must_use]
pub fn issuer(is_shared: bool) -> CheckLine {
    if is_shared {
        return bad("trust", codes::SHARED_ISSUER, "shared issuer: any host can pose as any node".to_owned());
    }
    good("trust", "each node has an identity of its own".to_owned())
}

/// Peers that were refused since the agent's start, by reason.
#[must_use]
pub fn refusals(counts: &[(&'static str, u64)]) -> CheckLine {
    let told: Vec<String> =
        counts.iter().filter(|(_, count)| *count > 0).map(|(reason, count)| format!("{reason} {count}")).collect();
    if told.is_empty() {
        return good("trust", "no peer's certificate was refused since the agent's start".to_owned());
    }
    let text = format!("certificates of peers were refused since the agent's start: {}", told.join(", "));
    // Of several the first in the verifier's order; a foreign bundle shows as a chain that leads nowhere here.
    let held = |reason: &str| counts.iter().any(|(known, count)| *known == reason && *count > 0);
    let code = if held("other-mesh") || held("not-chained") {
        codes::OTHER_MESH
    } else if held("not-yet-valid") || held("leaf-expired") {
        codes::CLOCKS_DIFFER
    } else if held("revoked") {
        codes::REVOKED
    } else if held("expired") {
        codes::CERTIFICATE_EXPIRED
    } else {
        codes::NOT_SPIFFE
    };
    // Somebody else's certificate: a warning here, whatever it is there.
    let line = bad("trust", code, text);
    let help = "who it was stands in the agent's log: peer refused; a revoked node in starling events --kind identity";
    CheckLine { level: "warning".to_owned(), help: help.to_owned(), ..line }
}

/// What certificates show of clocks: one that was made in our future, and those that were refused for their dates.
#[must_use]
pub fn clocks(now: UnixTime, members: &[MemberTrust], counts: &[(&'static str, u64)]) -> CheckLine {
    let dated = ["not-yet-valid", "leaf-expired"];
    let refused: u64 = counts.iter().filter(|(reason, _)| dated.contains(reason)).map(|(_, count)| count).sum();
    let made = |member: &MemberTrust| UnixTime(member.leaf_not_after).minus(LEAF_SECONDS);
    let ahead = members.iter().filter(|member| member.leaf_not_after > 0).max_by_key(|member| made(member));
    if let Some(member) = ahead.filter(|member| made(member) > now.plus(CLOCK_AHEAD_SECONDS_MAX)) {
        let made = made(member);
        let behind = now.until(made).as_secs();
        let text = format!(
            "clocks differ: {} made its certificate at {made} by its clock, ours says {now}, {behind} s behind",
            member.name
        );
        return bad("host", codes::CLOCKS_DIFFER, text);
    }
    if refused > 0 {
        let text = format!("clocks differ: {refused} certificates were not valid at the moment of this clock, {now}");
        // Since the agent's start, and perhaps the other's clock: no error of this host for as long as it runs.
        return CheckLine { level: "warning".to_owned(), ..bad("host", codes::CLOCKS_DIFFER, text) };
    }
    good("host", format!("clock says {now}; no certificate of {} members is from its future", members.len()))
}

/// What `starling status` tells besides, under the group that its code belongs to.
#[must_use]
pub fn problems(found: &[StatusProblem]) -> Vec<CheckLine> {
    // Those that have a line above.
    let told = [codes::CERTIFICATE_ENDING, codes::SHARED_ISSUER].map(|code| code.to_string());
    let other = found.iter().filter(|problem| !told.contains(&problem.code));
    let line = |problem: &StatusProblem| CheckLine {
        group: group_of(&problem.code).to_owned(),
        level: problem.level.clone(),
        text: problem.detail.clone(),
        code: problem.code.clone(),
        help: problem.help.clone(),
    };
    other.map(line).collect()
}

/// The reasons that a verifier has, none of which has come.
#[must_use]
pub fn nobody_refused() -> Vec<(&'static str, u64)> {
    PeerRefused::REASONS.iter().map(|reason| (*reason, 0)).collect()
}

/// Groups in the order in which they are shown.
pub const GROUPS: [&str; 5] = ["host", "trust", "gossip", "agreement", "data plane"];

/// `ST0604` is about trust.
fn group_of(code: &str) -> &'static str {
    match code.get(2..4) {
        Some("04") => "agreement",
        Some("05") => "data plane",
        Some("06") => "trust",
        Some("01" | "07") => "host",
        Some(_) | None => "gossip",
    }
}

fn days(seconds: u64) -> String {
    match seconds {
        0..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn first(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_MAX).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_795_361_519);
    const DAY: u64 = 86_400;

    fn sound() -> Certificates {
        Certificates {
            now: NOW,
            not_after: NOW.plus(361 * DAY + 60),
            is_ending: false,
            is_chained: true,
            is_revoked: false,
            leaf: (NOW.plus(DAY - 3_600), NOW.minus(3_600)),
        }
    }

    fn member(name: &str, bundle_sequence: u64, leaf_made: UnixTime) -> MemberTrust {
        let name = NodeName::new(name).unwrap();
        MemberTrust { name, bundle_sequence, leaf_not_after: leaf_made.plus(LEAF_SECONDS).0 }
    }

    fn check(line: &CheckLine, level: &str, code: &str, part: &str) {
        assert_eq!((line.level.as_str(), line.code.as_str()), (level, code), "{line:?}");
        assert!(line.text.contains(part), "{line:?}");
        assert_eq!(line.help.is_empty(), level == "ok", "{line:?}");
    }

    #[test]
    fn the_life_of_a_certificate_is_told_from_its_end_backwards() {
        let line = |facts: Certificates| certificates(&facts).swap_remove(0);
        check(&line(sound()), "ok", "", "361 d left, chains to the bundle");
        check(&line(Certificates { is_ending: true, ..sound() }), "warning", "ST0603", "under 20 %");
        check(&line(Certificates { is_chained: false, ..sound() }), "error", "ST0601", "missed a rotation");
        check(&line(Certificates { not_after: NOW.minus(1), ..sound() }), "error", "ST0601", "it is 2026-");
        check(&line(Certificates { is_revoked: true, ..sound() }), "error", "ST0624", "revoked");
        let leaf = |left: u64| certificates(&Certificates { leaf: (NOW.plus(left), NOW), ..sound() }).swap_remove(1);
        check(&leaf(LEAF_LEFT_SECONDS_MIN), "ok", "", "leaf made");
        check(&leaf(LEAF_LEFT_SECONDS_MIN - 1), "warning", "ST0603", "not renewed");
        let help = leaf(LEAF_LEFT_SECONDS_MIN - 1).help;
        assert!(help.contains("journalctl") && !help.contains("--renew"), "no operator renews a leaf: {help}");
        let last_day = Certificates { not_after: NOW.plus(3_600), leaf: (NOW.plus(3_600), NOW), ..sound() };
        check(&certificates(&last_day)[1], "ok", "", "leaf made");
    }

    #[test]
    fn a_bundle_that_others_do_not_use_is_named_with_them() {
        let all = [member("vm-1", 2, NOW), member("vm-2", 2, NOW)];
        check(&bundles(2, "SHA256:b7e1", &all), "ok", "", "all 2 members use trust bundle sequence 2, SHA256:b7e1");
        let some = [member("vm-1", 2, NOW), member("vm-2", 1, NOW)];
        check(&bundles(2, "", &some), "warning", "ST0605", "vm-2 uses 1");
        let many: Vec<_> = (0..9).map(|n| member(&format!("vm-{n}"), 1, NOW)).collect();
        check(&bundles(2, "", &many), "warning", "ST0605", "and 4 more");
        check(&differs("vm-2: other documents".to_owned()), "error", "ST0421", "vm-2");
        check(&odd("host", "what".to_owned(), "do"), "warning", "", "what");
        check(&issuer(true), "warning", "ST0604", "any host can pose as any node");
        check(&issuer(false), "ok", "", "identity of its own");
    }

    #[test]
    fn a_clock_that_differs_is_told_with_both_readings() {
        let none = nobody_refused();
        check(&clocks(NOW, &[member("vm-2", 1, NOW.plus(2))], &none), "ok", "", "of 1 members");
        let line = clocks(NOW, &[member("vm-3", 1, NOW), member("vm-2", 1, NOW.plus(483))], &none);
        check(&line, "error", "ST0202", "vm-2 made its certificate at 2026-11-22T");
        assert!(line.text.contains("ours says 2026-11-22T") && line.text.contains("483 s behind"), "{line:?}");
        check(&clocks(NOW, &[], &[("leaf-expired", 1), ("revoked", 7)]), "warning", "ST0202", "1 certificates");
        let unknown = MemberTrust { leaf_not_after: 0, ..member("vm-2", 1, NOW) };
        check(&clocks(NOW, &[unknown], &none), "ok", "", "future");
    }

    #[test]
    fn refused_peers_are_told_with_the_code_that_leads_on() {
        check(&refusals(&nobody_refused()), "ok", "", "no peer");
        for (reason, code) in [
            ("not-chained", "ST0204"),
            ("other-mesh", "ST0204"),
            ("expired", "ST0601"),
            ("not-yet-valid", "ST0202"),
            ("revoked", "ST0624"),
            ("san-count", "ST0621"),
        ] {
            check(&refusals(&[(reason, 3)]), "warning", code, &format!("{reason} 3"));
        }
    }

    #[test]
    fn other_problems_stand_in_the_group_of_their_code() {
        let problem = |code: &str, level: &str| StatusProblem {
            code: code.to_owned(),
            level: level.to_owned(),
            detail: "what".to_owned(),
            help: "do".to_owned(),
        };
        let found = ["ST0203", "ST0414", "ST0503", "ST0608", "ST0716", "", "ST0604"];
        let lines = problems(&found.map(|code| problem(code, "error")));
        let groups: Vec<&str> = lines.iter().map(|line| line.group.as_str()).collect();
        assert_eq!(groups, ["gossip", "agreement", "data plane", "trust", "host", "gossip"]);
        assert!(groups.iter().all(|group| GROUPS.contains(group)));
    }
}
