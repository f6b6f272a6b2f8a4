//! What a rule or backend does to requests and responses: the `filters` of HTTP and gRPC routes.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::num::{NonZeroU16, NonZeroU32};

use http::{HeaderName, HeaderValue, StatusCode};

use super::cors::{self, Cors};
use super::fields::Fields;
use super::http_route::keep_first;
use super::limits::{FILTERS_MAX, HEADERS_MAX};
use super::route::{self, BackendTarget};
use super::text;
use crate::schema::Bad;
use crate::tree::{Node, Value};
use crate::values::{number, one_of};

/// All filters of one rule or backend; each kind but mirrors stands once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Answers browsers.
    pub cors: Option<Cors>,
    /// Changes to the request's headers.
    pub request_headers: Option<HeaderEdits>,
    /// Copies that nobody waits for.
    pub mirrors: Vec<Mirror>,
    /// Redirect or rewrite.
    pub path: Option<PathFilter>,
    /// Changes to the response's headers.
    pub response_headers: Option<HeaderEdits>,
}

impl Filters {
    /// What stands here, in the words of the Gateway API and in the order in which it is done.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let path = self.path.as_ref().map(|path| match path {
            PathFilter::Redirect(_) => "RequestRedirect",
            PathFilter::Rewrite(_) => "URLRewrite",
        });
        let mirrors = self.mirrors.iter().map(|_| "RequestMirror");
        let said = [self.cors.as_ref().map(|_| "CORS"), self.request_headers.as_ref().map(|_| "RequestHeaderModifier")];
        let back = self.response_headers.as_ref().map(|_| "ResponseHeaderModifier");
        said.into_iter().flatten().chain(mirrors).chain(path).chain(back)
    }
}

/// One excludes the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathFilter {
    /// Answered with `Location`.
    Redirect(Redirect),
    /// Sent on as something else.
    Rewrite(Rewrite),
}

/// Set, then add, then remove; of equal names in one list the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replace all values.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Append to the values there are.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Take away.
    pub remove: Vec<HeaderName>,
}

/// `RequestMirror`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go.
    pub target: BackendTarget,
    /// So many; at most the denominator.
    pub numerator: u32,
    /// Of so many.
    pub denominator: NonZeroU32,
}

/// `RequestRedirect`; what is absent is taken from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// Without port.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathEdit>,
    /// The new port.
    pub port: Option<NonZeroU16>,
    /// 301, 302, 303, 307 or 308; 302 unless said otherwise.
    pub status: StatusCode,
}

/// The scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// `URLRewrite`; at least one of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The new Host.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathEdit>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// All of it is replaced.
    Full(String),
    /// The prefix of the rule's only match is replaced.
    Prefix(String),
}

impl Filters {
    /// Whether a prefix is replaced, which asks for one match with a prefix.
    pub(super) fn replaces_prefix(&self) -> bool {
        let path = match &self.path {
            Some(PathFilter::Redirect(redirect)) => redirect.path.as_ref(),
            Some(PathFilter::Rewrite(rewrite)) => rewrite.path.as_ref(),
            None => None,
        };
        matches!(path, Some(PathEdit::Prefix(_)))
    }
}

/// Where filters stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    HttpRule,
    HttpBackend,
    Grpc,
}

/// The word of `type`, which names the one field that stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FilterType {
    Cors,
    RequestHeaders,
    ResponseHeaders,
    Mirror,
    Redirect,
    Rewrite,
    Later,
}

const HTTP_TYPES: &[(&str, FilterType)] = &[
    ("CORS", FilterType::Cors),
    ("RequestHeaderModifier", FilterType::RequestHeaders),
    ("ResponseHeaderModifier", FilterType::ResponseHeaders),
    ("RequestMirror", FilterType::Mirror),
    ("RequestRedirect", FilterType::Redirect),
    ("URLRewrite", FilterType::Rewrite),
    ("ExtensionRef", FilterType::Later),
    ("ExternalAuth", FilterType::Later),
];
const GRPC_TYPES: &[(&str, FilterType)] = &[
    ("RequestHeaderModifier", FilterType::RequestHeaders),
    ("ResponseHeaderModifier", FilterType::ResponseHeaders),
    ("RequestMirror", FilterType::Mirror),
    ("ExtensionRef", FilterType::Later),
];

/// Each type's field, as the standard spells them.
const FIELDS: &[(FilterType, &str)] = &[
    (FilterType::Cors, "cors"),
    (FilterType::RequestHeaders, "requestHeaderModifier"),
    (FilterType::ResponseHeaders, "responseHeaderModifier"),
    (FilterType::Mirror, "requestMirror"),
    (FilterType::Redirect, "requestRedirect"),
    (FilterType::Rewrite, "urlRewrite"),
];

enum Filter {
    Cors(Cors),
    RequestHeaders(HeaderEdits),
    ResponseHeaders(HeaderEdits),
    Mirror(Mirror),
    Path(PathFilter),
}

pub(super) fn read(fields: &mut Fields<'_, '_>, place: Place) -> Filters {
    let mut all = Filters::default();
    let mut at = 0_usize;
    fields.tables("filters", FILTERS_MAX, |fields| {
        let filter = filter(fields, place)?;
        let twice = match filter {
            Filter::Cors(cors) => all.cors.replace(cors).is_some().then_some("a CORS filter"),
            Filter::RequestHeaders(edits) => {
                all.request_headers.replace(edits).is_some().then_some("a RequestHeaderModifier")
            }
            Filter::ResponseHeaders(edits) => {
                all.response_headers.replace(edits).is_some().then_some("a ResponseHeaderModifier")
            }
            Filter::Mirror(mirror) => {
                all.mirrors.push(mirror);
                None
            }
            Filter::Path(path) => all.path.replace(path).is_some().then_some("a RequestRedirect or URLRewrite"),
        };
        if let Some(what) = twice {
            fields.bad("type", Bad::new(format!("stands beside {what}: only one can apply")));
        }
        at = at.saturating_add(1);
        Some(())
    });
    all
}

fn filter(fields: &mut Fields<'_, '_>, place: Place) -> Option<Filter> {
    let types = match place {
        Place::HttpRule | Place::HttpBackend => HTTP_TYPES,
        Place::Grpc => GRPC_TYPES,
    };
    let form = fields.required("type", one_of(types));
    for (of, field) in FIELDS {
        if form.is_some_and(|form| form != *of) && fields.has(field) {
            fields.bad_key(field, Bad::new("does not belong to a filter of this type"));
        }
        if form == Some(*of) {
            fields.demand(field);
        }
    }
    let filter = match form {
        Some(FilterType::Cors) => fields.table("cors", cors::read).map(Filter::Cors),
        Some(FilterType::RequestHeaders) => {
            fields.table("requestHeaderModifier", header_edits).map(Filter::RequestHeaders)
        }
        Some(FilterType::ResponseHeaders) => {
            fields.table("responseHeaderModifier", header_edits).map(Filter::ResponseHeaders)
        }
        Some(FilterType::Mirror) => fields.table("requestMirror", mirror).map(Filter::Mirror),
        Some(FilterType::Redirect) => {
            fields.table("requestRedirect", redirect).map(|redirect| Filter::Path(PathFilter::Redirect(redirect)))
        }
        Some(FilterType::Rewrite) => {
            fields.table("urlRewrite", rewrite).map(|rewrite| Filter::Path(PathFilter::Rewrite(rewrite)))
        }
        Some(FilterType::Later) => {
            fields.bad("type", Bad::new("is a filter that this release does not have; none is ever skipped"));
            fields.ignored(&["extensionRef", "externalAuth"]);
            None
        }
        None => None,
    };
    FIELDS.iter().for_each(|(_, field)| fields.ignored(&[field]));
    filter
}

fn header_edits(fields: &mut Fields<'_, '_>) -> Option<HeaderEdits> {
    let mut set = fields.tables("set", HEADERS_MAX, header);
    fields.unique("set", "name");
    let mut add = fields.tables("add", HEADERS_MAX, header);
    fields.unique("add", "name");
    let remove = fields.values("remove", HEADERS_MAX, text::edited_header);
    keep_first(&mut set, |(name, _)| name.clone());
    keep_first(&mut add, |(name, _)| name.clone());
    Some(HeaderEdits { set, add, remove })
}

fn header(fields: &mut Fields<'_, '_>) -> Option<(HeaderName, HeaderValue)> {
    let name = fields.required("name", text::edited_header);
    let value = fields.required("value", text::header_value);
    Some((name?, value?))
}

fn mirror(fields: &mut Fields<'_, '_>) -> Option<Mirror> {
    const HUNDRED: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
    fields.demand("backendRef");
    let target = fields.table("backendRef", route::target);
    let percent = fields.optional("percent", number(0, 100));
    let fraction = fields.table("fraction", |fields| {
        let numerator = fields.required("numerator", number(0, i32::MAX.unsigned_abs()));
        let denominator = fields.optional("denominator", number(1, i32::MAX.unsigned_abs())).and_then(NonZeroU32::new);
        let denominator = denominator.unwrap_or(HUNDRED);
        if numerator.is_some_and(|numerator| numerator > denominator.get()) {
            fields.bad("numerator", Bad::new(format!("is over the denominator, {denominator}")));
        }
        Some((numerator?, denominator))
    });
    if fields.has("percent") && fields.has("fraction") {
        fields.bad_key("fraction", Bad::new("and percent exclude each other"));
    }
    let (numerator, denominator) = fraction.unwrap_or((percent.unwrap_or(100), HUNDRED));
    Some(Mirror { target: target?, numerator, denominator })
}

fn redirect(fields: &mut Fields<'_, '_>) -> Option<Redirect> {
    let scheme = fields.optional("scheme", one_of(&[("http", Scheme::Http), ("https", Scheme::Https)]));
    let hostname = fields.optional("hostname", text::precise_hostname);
    let path = fields.table("path", path_edit);
    let port = fields.optional("port", text::port);
    let status = fields.optional("statusCode", status).unwrap_or(StatusCode::FOUND);
    Some(Redirect { scheme, hostname, path, port, status })
}

fn status(node: &Node) -> Result<StatusCode, Bad> {
    let number = number(0, 999)(node)?;
    let known = [301, 302, 303, 307, 308].contains(&number);
    let status = u16::try_from(number).ok().filter(|_| known).and_then(|number| StatusCode::from_u16(number).ok());
    status.ok_or_else(|| Bad::new("is not one of 301, 302, 303, 307, 308"))
}

fn rewrite(fields: &mut Fields<'_, '_>) -> Option<Rewrite> {
    let hostname = fields.optional("hostname", text::precise_hostname);
    let path = fields.table("path", path_edit);
    if !fields.has("hostname") && !fields.has("path") {
        fields.bad_table(Bad::new("rewrites nothing: it needs `hostname` or `path`"));
    }
    Some(Rewrite { hostname, path })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EditType {
    Full,
    Prefix,
}

fn path_edit(fields: &mut Fields<'_, '_>) -> Option<PathEdit> {
    const TYPES: &[(&str, EditType)] = &[("ReplaceFullPath", EditType::Full), ("ReplacePrefixMatch", EditType::Prefix)];
    let form = fields.required("type", one_of(TYPES));
    let (field, other) = match form {
        Some(EditType::Full) => ("replaceFullPath", "replacePrefixMatch"),
        Some(EditType::Prefix) => ("replacePrefixMatch", "replaceFullPath"),
        None => {
            fields.ignored(&["replaceFullPath", "replacePrefixMatch"]);
            return None;
        }
    };
    fields.ignored(&[field, other]);
    if fields.has(other) {
        fields.bad_key(other, Bad::new(format!("does not belong to this type: write `{field}`")));
        return None;
    }
    let path = fields.required(field, replacement);
    match form? {
        EditType::Full => path.map(PathEdit::Full),
        EditType::Prefix => path.map(PathEdit::Prefix),
    }
}

/// A path to write; the empty one stands for `/`, as in the standard's own examples.
fn replacement(node: &Node) -> Result<String, Bad> {
    let empty = matches!(&node.value, Value::String(text) if text.is_empty());
    if empty { Ok("/".to_owned()) } else { text::written_path(node) }
}
