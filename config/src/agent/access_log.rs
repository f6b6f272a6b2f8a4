//! `[access_log]`: one line for each request and connection, where it goes and which are told.

use std::path::PathBuf;

use crate::schema::Bad;
use crate::tree::Node;
use crate::values;

/// The least share that can be asked for is one of so many.
const SAMPLE_OF: u32 = 1_000_000;

/// `[access_log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSettings {
    /// Where lines go.
    pub to: AccessLogTo,
    /// How lines look.
    pub format: AccessLogFormat,
    /// Which requests and connections are told.
    pub only: AccessLogOnly,
}

/// `access_log.to`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    /// The journal of the host.
    Journald,
    /// The agent's standard output.
    Stdout,
    /// A file, which is opened again on SIGHUP.
    File(PathBuf),
}

/// `access_log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object, with names of OpenTelemetry where it has them.
    Json,
    /// The common log format of HTTP servers.
    Common,
    /// Envoy's default format.
    Envoy,
    /// No line at all.
    Off,
}

/// `access_log.only`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogOnly {
    /// Those that the mesh answered itself or broke off, 5xx, and calls that failed by their service.
    Errors,
    /// All.
    All,
    /// So many of a million, whatever became of them.
    Sample(u32),
}

pub(crate) fn to(node: &Node) -> Result<AccessLogTo, Bad> {
    match values::text(node)? {
        "journald" => Ok(AccessLogTo::Journald),
        "stdout" => Ok(AccessLogTo::Stdout),
        path if path.starts_with('/') => Ok(AccessLogTo::File(PathBuf::from(path))),
        _ => Err(Bad::new("is not \"journald\", \"stdout\" or an absolute path")),
    }
}

pub(crate) fn format(node: &Node) -> Result<AccessLogFormat, Bad> {
    const WORDS: &[(&str, AccessLogFormat)] = &[
        ("json", AccessLogFormat::Json),
        ("common", AccessLogFormat::Common),
        ("envoy", AccessLogFormat::Envoy),
        ("off", AccessLogFormat::Off),
    ];
    values::one_of(WORDS)(node)
}

pub(crate) fn only(node: &Node) -> Result<AccessLogOnly, Bad> {
    match values::text(node)? {
        "errors" => Ok(AccessLogOnly::Errors),
        "all" => Ok(AccessLogOnly::All),
        text => match text.strip_prefix("sample:") {
            Some(share) => sample(share),
            None => Err(Bad::new("is not \"errors\", \"all\" or a share like \"sample:0.01\"")),
        },
    }
}

/// A share as digits say it: exact, without a float.
fn sample(share: &str) -> Result<AccessLogOnly, Bad> {
    let bad = || Bad::new("is no share: \"sample:0.000001\" to \"sample:1\"");
    let (whole, fraction) = share.split_once('.').unwrap_or((share, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 6 {
        return Err(bad());
    }
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    let fraction: u32 = format!("{fraction:0<6}").parse().map_err(|_| bad())?;
    let parts = whole.checked_mul(SAMPLE_OF).and_then(|parts| parts.checked_add(fraction));
    parts.filter(|parts| (1..=SAMPLE_OF).contains(parts)).map(AccessLogOnly::Sample).ok_or_else(bad)
}
