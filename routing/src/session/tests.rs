use proptest::prelude::*;
use starling_model::{InstanceName, Namespace, NodeName};

use super::*;

const T: UnixSeconds = UnixSeconds(1_700_000_000);

fn session(name: Option<&str>, timeout: Option<u64>, lifetime: CookieLifetime) -> Session {
    let wanted = SessionPersistence {
        session_name: name.map(str::to_owned),
        absolute_timeout: timeout.map(Duration::from_secs),
        lifetime,
    };
    Session::new("HTTPRoute default/a rule #0", &wanted)
}

fn mark(node: &str) -> Mark {
    let (namespace, instance) = (Namespace::default(), InstanceName::new("orders-1").unwrap());
    Mark::of(&EndpointId { node: NodeName::new(node).unwrap(), namespace, instance })
}

/// What a client sends back of a `Set-Cookie`.
fn sent_back(set: &HeaderValue) -> HeaderMap {
    let pair = set.to_str().unwrap().split(';').next().unwrap();
    with(&[pair])
}

fn with(lines: &[&str]) -> HeaderMap {
    lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap())).collect()
}

fn found(session: &Session, headers: &HeaderMap, now: UnixSeconds) -> Result<Mark, Began> {
    session.find(headers, (now, None), Some)
}

fn after(seconds: u64) -> UnixSeconds {
    UnixSeconds(T.0 + seconds)
}

#[test]
fn a_cookie_brings_its_mark_back() {
    let session = session(Some("sid"), None, CookieLifetime::Session);
    let set = session.set_cookie(None, mark("vm-1"), T).unwrap();
    assert_eq!(found(&session, &sent_back(&set), after(1 << 30)), Ok(mark("vm-1")));
    assert_eq!(found(&session, &HeaderMap::new(), T), Err(Began::NoCookie));
    assert_eq!(found(&session, &with(&["sid2=1; xsid=2; other=sid"]), T), Err(Began::NoCookie));
}

#[test]
fn it_is_found_among_others_and_in_several_lines() {
    let session = session(Some("sid"), None, CookieLifetime::Session);
    let set = session.set_cookie(None, mark("vm-1"), T).unwrap();
    let pair = set.to_str().unwrap().split(';').next().unwrap();
    for lines in [&[&*format!("a=1;{pair};b=2")][..], &["a=1", &format!("b=2;   {pair}")], &["sid=x", pair]] {
        assert_eq!(found(&session, &with(lines), T), Ok(mark("vm-1")), "{lines:?}");
    }
}

#[test]
fn of_one_name_so_many_cookies_are_looked_at_and_no_more() {
    let session = session(Some("sid"), None, CookieLifetime::Session);
    let set = session.set_cookie(None, mark("vm-1"), T).unwrap();
    let pair = set.to_str().unwrap().split(';').next().unwrap();
    let behind = |others: usize| with(&[&format!("{}{pair}", "sid=x; ".repeat(others))]);
    assert_eq!(found(&session, &behind(SESSION_COOKIES_MAX - 1), T), Ok(mark("vm-1")));
    assert_eq!(found(&session, &behind(SESSION_COOKIES_MAX), T), Err(Began::Foreign));
}

#[test]
fn attributes_are_the_path_http_only_and_a_permanent_ones_age() {
    let of = |timeout, lifetime| {
        let set = session(Some("sid"), timeout, lifetime).set_cookie(None, mark("vm-1"), T).unwrap();
        set.to_str().unwrap().split_once("; ").unwrap().1.to_owned()
    };
    assert_eq!(of(None, CookieLifetime::Session), "Path=/; HttpOnly");
    assert_eq!(of(Some(60), CookieLifetime::Session), "Path=/; HttpOnly", "the agent counts, not the client");
    assert_eq!(of(Some(60), CookieLifetime::Permanent), "Path=/; HttpOnly; Max-Age=60");
    assert_eq!(of(Some(0), CookieLifetime::Permanent), "Path=/; HttpOnly; Max-Age=1");
}

#[test]
fn a_session_ends_with_its_absolute_timeout_used_or_not() {
    for lifetime in [CookieLifetime::Session, CookieLifetime::Permanent] {
        let session = session(Some("sid"), Some(3_600), lifetime);
        let cookie = sent_back(&session.set_cookie(None, mark("vm-1"), T).unwrap());
        assert_eq!(found(&session, &cookie, after(3_599)), Ok(mark("vm-1")));
        assert_eq!(found(&session, &cookie, after(3_600)), Err(Began::Expired));
    }
}

/// Agents' clocks differ; a forger's does not count.
#[test]
fn a_session_that_begins_later_than_clocks_differ_is_none() {
    let session = session(Some("sid"), Some(60), CookieLifetime::Session);
    let cookie = |ahead: u64| sent_back(&session.set_cookie(None, mark("vm-1"), after(ahead)).unwrap());
    let most = SESSION_AHEAD_MAX.as_secs();
    assert_eq!(found(&session, &cookie(most), T), Ok(mark("vm-1")));
    assert_eq!(found(&session, &cookie(most + 1), T), Err(Began::Foreign));
}

#[test]
fn a_name_is_derived_where_none_is_given_and_differs_by_owner() {
    let wanted = SessionPersistence { session_name: None, absolute_timeout: None, lifetime: CookieLifetime::Session };
    let names = ["HTTPRoute default/a rule #0", "HTTPRoute default/a rule #1", "Service default/a"]
        .map(|owner| Session::new(owner, &wanted).cookie().to_owned());
    assert!(names.iter().all(|name| name.starts_with("starling-") && name.len() == 25), "{names:?}");
    assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
}

#[test]
fn cookies_of_one_name_are_not_shared_by_two_owners() {
    let wanted = SessionPersistence {
        session_name: Some("sid".into()),
        absolute_timeout: None,
        lifetime: CookieLifetime::Session,
    };
    let (one, two) = (Session::new("a", &wanted), Session::new("b", &wanted));
    let cookie = sent_back(&one.set_cookie(None, mark("vm-1"), T).unwrap());
    assert_eq!(found(&one, &cookie, T), Ok(mark("vm-1")));
    assert_eq!(found(&two, &cookie, T), Err(Began::Foreign));
}

#[test]
fn nothing_of_an_endpoint_shows_and_two_cookies_of_one_do_not_look_alike() {
    let session = session(Some("sid"), None, CookieLifetime::Session);
    let text = |at| session.set_cookie(None, mark("vm-1"), at).unwrap().to_str().unwrap().to_owned();
    let hexed = hex(b"vm-1");
    assert!(!text(T).contains("vm-1") && !text(T).contains(&hexed) && !text(T).contains(&hex(&mark("vm-1").0)));
    let (one, two) = (text(T), text(after(1)));
    let hidden = |text: &str| text[4 + 2 + 10..][..32].to_owned();
    assert_ne!(hidden(&one), hidden(&two));
    // The same at every agent and in every release: clients keep cookies for long.
    assert_eq!(one, GOLDEN);
}

/// By another implementation.
const GOLDEN: &str = "sid=01006553f1004d5e8c06adeb9b3bc48c2755dcb8dcf7bd02870516dd8462975d; Path=/; HttpOnly";

#[test]
fn a_value_of_another_length_is_none_of_ours() {
    let session = session(Some("sid"), None, CookieLifetime::Session);
    let set = session.set_cookie(None, mark("vm-1"), T).unwrap().to_str().unwrap().to_owned();
    let value = &set[4..4 + SESSION_VALUE_BYTES];
    assert!(set[4 + SESSION_VALUE_BYTES..].starts_with(';'));
    let check = |value: &str, want| assert_eq!(found(&session, &with(&[&format!("sid={value}")]), T), want, "{value}");
    check(value, Ok(mark("vm-1")));
    check(&format!("{value}0"), Err(Began::Foreign));
    check(&value[..SESSION_VALUE_BYTES - 1], Err(Began::Foreign));
    check(&value.to_uppercase(), Err(Began::Foreign));
    check(&"0".repeat(1 << 20), Err(Began::Foreign));
    check("", Err(Began::Foreign));
}

#[test]
fn who_has_not_the_key_can_neither_make_nor_read_a_sealed_cookie() {
    let session = session(Some("sid"), None, CookieLifetime::Session);
    let keys = ["11", "22"].map(|byte| SessionKey::parse(&byte.repeat(32)).unwrap());
    let [one, two] = [Some(&keys[0]), Some(&keys[1])];
    let cookie = |key| sent_back(&session.set_cookie(key, mark("vm-1"), T).unwrap());
    for (made, read, want) in [
        (one, one, Ok(mark("vm-1"))),
        (one, two, Err(Began::Foreign)),
        (None, one, Err(Began::Foreign)),
        (one, None, Err(Began::Foreign)),
    ] {
        assert_eq!(session.find(&cookie(made), (T, read), Some), want);
    }
}

#[test]
fn a_key_has_sixty_four_digits_and_shows_none() {
    let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
    let key = SessionKey::parse(&format!("{digits}\n")).unwrap();
    assert_eq!(format!("{key:?}"), "SessionKey(..)");
    for wrong in ["", &digits[1..], &format!("{digits}0"), &digits.replace('f', "g")] {
        assert_eq!(SessionKey::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn the_nearest_to_a_session_is_the_reason_that_is_told() {
    let session = session(Some("sid"), Some(60), CookieLifetime::Session);
    let pair = |at| {
        session.set_cookie(None, mark("vm-1"), at).unwrap().to_str().unwrap().split(';').next().unwrap().to_owned()
    };
    let headers = with(&[&format!("sid=x; {}; {}", pair(T), pair(after(60)))]);
    assert_eq!(session.find(&headers, (after(60), None), |_| None::<()>), Err(Began::Gone));
    assert_eq!(found(&session, &with(&[&format!("sid=x; {}", pair(T))]), after(60)), Err(Began::Expired));
}

proptest! {
    /// Whatever stands in a cookie, it is a session only if an agent wrote it so.
    #[test]
    fn a_changed_byte_makes_a_cookie_foreign(at in 0..SESSION_VALUE_BYTES, to in "[0-9a-f]") {
        let session = session(Some("sid"), None, CookieLifetime::Session);
        let mut pair = session.set_cookie(None, mark("vm-1"), T).unwrap().to_str().unwrap()[..4 + SESSION_VALUE_BYTES].to_owned();
        let same = pair[4 + at..][..1] == to;
        pair.replace_range(4 + at..=4 + at, &to);
        let want = if same { Ok(mark("vm-1")) } else { Err(Began::Foreign) };
        prop_assert_eq!(found(&session, &with(&[&pair]), T), want);
    }

    #[test]
    fn any_bytes_are_read_without_panic(line in prop::collection::vec(32u8..=255, 0..300), now in any::<u64>()) {
        let session = session(Some("sid"), Some(1), CookieLifetime::Permanent);
        let mut bytes = b"sid=".to_vec();
        bytes.extend(line);
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let headers = HeaderMap::from_iter([(COOKIE, value)]);
            prop_assert!(found(&session, &headers, UnixSeconds(now)).is_err());
        }
        let _ = session.set_cookie(None, mark("vm-1"), UnixSeconds(now));
    }
}
