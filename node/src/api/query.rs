//! Query parameters: known names only, each at most once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::problem::Refusal;

/// Things of a page unless it is asked for otherwise.
const LIMIT_DEFAULT: usize = 100;
/// Most things of one page.
const LIMIT_MAX: usize = 1_000;

/// The parameters of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads `raw`; every name must be in `known`.
    ///
    /// # Errors
    /// 400 for unknown or repeated names, and for bad escapes.
    pub fn read(raw: Option<&str>, known: &[&str]) -> Result<Self, Refusal> {
        Self::read_with(raw, known, None).map(|(query, _)| query)
    }

    /// The same with one parameter that may stand there several times: its values, in their order.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with(
        raw: Option<&str>,
        known: &[&str],
        repeated: Option<&str>,
    ) -> Result<(Self, Vec<String>), Refusal> {
        let (mut parameters, mut values) = (BTreeMap::new(), Vec::new());
        for pair in raw.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (unescape(name)?, unescape(value)?);
            if repeated == Some(&name) {
                values.push(value);
                continue;
            }
            if !known.contains(&name.as_str()) {
                let known: Vec<&str> = known.iter().copied().chain(repeated).collect();
                let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Refusal::malformed(format!("unknown query parameter {name:?}; known here: {list}")));
            }
            if parameters.insert(name.clone(), value).is_some() {
                return Err(Refusal::malformed(format!("query parameter {name:?} stands there twice")));
            }
        }
        Ok((Self(parameters), values))
    }

    /// One parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// How many things one page is to hold: 100 unless asked for otherwise.
    ///
    /// # Errors
    /// 400 when it is no number from 1 to 1,000.
    pub fn limit(&self) -> Result<usize, Refusal> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        text.parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| Refusal::malformed(format!("limit={text} is no number from 1 to {LIMIT_MAX}")))
    }

    /// A duration such as `30s`, at most `longest`.
    ///
    /// # Errors
    /// 400 when it is none, or longer.
    pub fn duration(&self, name: &str, longest: Duration) -> Result<Option<Duration>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match starling_config::duration::parse(text) {
            Ok(duration) if duration <= longest => Ok(Some(duration)),
            Ok(_) => Err(Refusal::malformed(format!("{name}={text} is over {} s", longest.as_secs()))),
            Err(_) => Err(Refusal::malformed(format!("{name}={text} is no duration such as 30s"))),
        }
    }
}

fn unescape(text: &str) -> Result<String, Refusal> {
    let bad = || Refusal::malformed(format!("{text:?} is not a well-formed query"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else { return Err(bad()) };
                u8::try_from(high * 16 + low).map_err(|_| bad())?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_once_and_well_formed() {
        let read = |raw: &str| Query::read(Some(raw), &["wait", "verbose"]).map_err(|refusal| refusal.status.as_u16());
        assert_eq!(Query::read(None, &[]), Ok(Query::default()));
        assert!(read("").is_ok() && read("verbose").is_ok());
        assert_eq!(read("wait=30s").unwrap().get("wait"), Some("30s"));
        assert_eq!(read("wait=3%30s").unwrap().get("wait"), Some("30s"));
        for bad in ["view=all", "wait=1s&wait=2s", "wait=%", "wait=%3", "wait=%ff", "%77ait%20=1"] {
            assert_eq!(read(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn one_parameter_may_stand_there_several_times() {
        let read = |raw: &str| Query::read_with(Some(raw), &["url"], Some("header"));
        let (query, headers) = read("header=a:+1&url=x&header=b%3A2").unwrap();
        assert_eq!((query.get("url"), headers), (Some("x"), vec!["a: 1".to_owned(), "b:2".to_owned()]));
        let refused = read("hedder=a").unwrap_err();
        assert!(refused.detail.ends_with("known here: url, header"), "{refused:?}");
        assert!(read("url=x&url=y").is_err());
    }

    #[test]
    fn durations_have_a_bound() {
        let read = |raw: &str| {
            let query = Query::read(Some(raw), &["wait"])?;
            query.duration("wait", Duration::from_secs(60))
        };
        assert_eq!(read("wait=30s"), Ok(Some(Duration::from_secs(30))));
        assert_eq!(read(""), Ok(None));
        assert!(read("wait=61s").is_err());
        assert!(read("wait=soon").is_err());
        assert!(read("wait=-1s").is_err());
    }

    #[test]
    fn a_page_holds_from_one_to_a_thousand_things() {
        let limit = |raw: &str| Query::read(Some(raw), &["limit"]).and_then(|query| query.limit());
        assert_eq!((limit(""), limit("limit=1"), limit("limit=1000")), (Ok(LIMIT_DEFAULT), Ok(1), Ok(LIMIT_MAX)));
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=all", "limit="] {
            assert_eq!(limit(bad).map_err(|refusal| refusal.status.as_u16()), Err(400), "{bad}");
        }
    }
}
