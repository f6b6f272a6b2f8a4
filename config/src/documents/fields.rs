//! The walk over one document: fields are read into types, and everything that is wrong on the way is collected.
//!
//! A function that reads a table asks [`Fields`] for each field that it knows. What nobody asked for is unknown. It reads
//! all fields first and only then gives up where a needed one is absent, so that one run tells everything. `None` always
//! means: the reason is among the problems.
#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use starling_model::Namespace;
use starling_model::codes::{self, Code, Level};

use super::limits::{DOCUMENT_PATTERN_BYTES_MAX, INPUT_PATTERN_BYTES_MAX, PATTERNS_MAX};
use super::meta::Dialect;
use crate::pattern::Pattern;
use crate::problem::{PROBLEMS_MAX, Problem};
use crate::schema::{Bad, clip};
use crate::source::At;
use crate::suggest::suggest;
use crate::tree::{Entry, Node, Table, Value};
use crate::values;

/// Where in a document a field is, in both of its spellings.
#[derive(Clone, Debug, Default)]
struct Path {
    /// `spec.rules[1].name`, for sentences.
    dotted: String,
    /// `/spec/rules/1/name` (RFC 6901), for programs.
    pointer: String,
}

impl Path {
    fn key(&self, key: &str) -> Self {
        let dot = if self.dotted.is_empty() { "" } else { "." };
        let escaped = key.replace('~', "~0").replace('/', "~1");
        Self {
            dotted: format!("{}{dot}{}", self.dotted, clip(key)),
            pointer: format!("{}/{}", self.pointer, clip(&escaped)),
        }
    }

    fn element(&self, at: usize) -> Self {
        Self { dotted: format!("{}[{at}]", self.dotted), pointer: format!("{}/{at}", self.pointer) }
    }
}

/// What the documents of one input may cost together: each warning is found in its line and kept, each pattern compiled.
#[derive(Debug)]
pub(crate) struct Budget {
    warnings: usize,
    pattern_bytes: usize,
    is_told: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { warnings: PROBLEMS_MAX, pattern_bytes: INPUT_PATTERN_BYTES_MAX, is_told: false }
    }
}

/// What is wrong with one document, and what it may hold.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) dialect: Dialect,
    /// Where references without a namespace point to.
    pub(crate) namespace: Namespace,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
    /// What is left of it.
    pub(crate) budget: Budget,
    patterns: usize,
    pattern_bytes: usize,
}

impl Reading {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            dialect: Dialect::Standard,
            namespace: Namespace::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
            budget,
            patterns: 0,
            pattern_bytes: 0,
        }
    }

    /// Adds a problem; of very many the first are enough, and finding the line of each costs.
    fn tell(&mut self, path: &Path, at: &At, problem: Problem) {
        let placed = |problem| Problem { place: at.place(), pointer: Some(path.pointer.clone()), ..problem };
        match problem.code.level {
            Level::Error if self.errors.len() <= PROBLEMS_MAX => self.errors.push(placed(problem)),
            Level::Error => {}
            Level::Warning => match self.budget.warnings.checked_sub(1) {
                Some(left) => {
                    self.budget.warnings = left;
                    self.warnings.push(placed(problem));
                }
                None if self.budget.is_told => {}
                None => {
                    self.budget.is_told = true;
                    self.warnings.push(Problem::new(problem.code, "further warnings are not listed"));
                }
            },
        }
    }

    fn tell_bad(&mut self, path: &Path, node: &Node, bad: Bad) {
        let (path, node) = match bad.part.as_deref().and_then(|part| part_of(node, path, part)) {
            Some((path, node)) => (path, node),
            None => (path.clone(), node),
        };
        let value = match &node.value {
            Value::Table(_) | Value::Array(_) => String::new(),
            Value::String(text) => format!(" = {:?}", clip(text)),
            other @ (Value::Integer(_) | Value::Boolean(_) | Value::Other(..)) => format!(" = {}", other.to_toml()),
        };
        let message = format!("{}{value} {}", path.dotted, bad.message);
        let problem = Problem { note: bad.note, ..Problem::new(codes::BAD_DOCUMENT, message) };
        self.tell(&path, &node.at, problem);
    }
}

fn part_of<'n>(node: &'n Node, path: &Path, part: &str) -> Option<(Path, &'n Node)> {
    match &node.value {
        Value::Array(nodes) => {
            let at = part.parse::<usize>().ok()?;
            nodes.get(at).map(|node| (path.element(at), node))
        }
        Value::Table(table) => table.get(part).map(|entry| (path.key(part), &entry.node)),
        Value::String(_) | Value::Integer(_) | Value::Other(..) | Value::Boolean(_) => None,
    }
}

/// One table of a document while it is read.
#[derive(Debug)]
pub(crate) struct Fields<'r, 'n> {
    reading: &'r mut Reading,
    node: &'n Node,
    table: &'n Table,
    path: Path,
    asked: Vec<&'static str>,
}

/// Reads the table at the top of a document.
pub(crate) fn read<'n, T>(
    reading: &mut Reading,
    node: &'n Node,
    read: impl FnOnce(&mut Fields<'_, 'n>) -> Option<T>,
) -> Option<T> {
    read_table(reading, node, Path::default(), read)
}

fn read_table<'n, T>(
    reading: &mut Reading,
    node: &'n Node,
    path: Path,
    read: impl FnOnce(&mut Fields<'_, 'n>) -> Option<T>,
) -> Option<T> {
    let Value::Table(table) = &node.value else {
        let bad = Bad::new(format!("must be a table of fields, not {}", node.value.kind()));
        let path = if path.dotted.is_empty() { Path { dotted: "the document".to_owned(), ..path } } else { path };
        reading.tell_bad(&path, node, bad);
        return None;
    };
    let mut fields = Fields { reading, node, table, path, asked: Vec::new() };
    let value = read(&mut fields);
    fields.end();
    value
}

impl<'n> Fields<'_, 'n> {
    pub(crate) fn dialect(&self) -> Dialect {
        self.reading.dialect
    }

    /// The entry of a key; a key without a value counts as absent, as Kubernetes has it.
    fn entry(&mut self, key: &'static str) -> Option<&'n Entry> {
        self.asked.push(key);
        self.table.get(key).filter(|entry| !entry.node.value.is_nothing())
    }

    /// Whether the document is refused already; what is read of it may then lack parts.
    pub(crate) fn has_errors(&self) -> bool {
        !self.reading.errors.is_empty()
    }

    /// Whether a field is there, right or wrong.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|entry| !entry.node.value.is_nothing())
    }

    /// A field that may be absent.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&'n Node) -> Result<T, Bad>,
    ) -> Option<T> {
        let entry = self.entry(key)?;
        match parse(&entry.node) {
            Ok(value) => Some(value),
            Err(bad) => {
                self.reading.tell_bad(&self.path.key(key), &entry.node, bad);
                None
            }
        }
    }

    /// A field that must be there.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&'n Node) -> Result<T, Bad>,
    ) -> Option<T> {
        self.demand(key);
        self.optional(key, parse)
    }

    /// How many elements a list has, right or wrong; none where there is no list.
    pub(crate) fn len(&self, key: &str) -> usize {
        match self.table.get(key).map(|entry| &entry.node.value) {
            Some(Value::Array(nodes)) => nodes.len(),
            Some(_) | None => 0,
        }
    }

    /// Tells where a field that must be there is absent, or an empty list.
    pub(crate) fn demand(&mut self, key: &'static str) {
        if self.table.get(key).is_some_and(|entry| matches!(&entry.node.value, Value::Array(nodes) if nodes.is_empty()))
        {
            self.bad(key, Bad::new("is empty: at least one is needed"));
        } else if !self.has(key) {
            let owner = if self.path.dotted.is_empty() { "the document" } else { &self.path.dotted };
            let problem = Problem {
                note: Some(format!("`{key}` is missing")),
                ..Problem::new(codes::BAD_DOCUMENT, format!("{owner} needs `{key}`"))
            };
            self.reading.tell(&self.path, &self.node.at, problem);
        }
    }

    /// Takes the bytes of a pattern from what is left, each use of an alias anew, since each is compiled.
    fn pays_for_pattern(&mut self, key: &str) -> bool {
        let bytes = match self.table.get(key).map(|entry| &entry.node.value) {
            Some(Value::String(text)) => text.len(),
            Some(_) | None => 0,
        };
        let reading = &mut *self.reading;
        let used = reading.pattern_bytes.saturating_add(bytes);
        match reading.budget.pattern_bytes.checked_sub(bytes) {
            Some(left) if used <= DOCUMENT_PATTERN_BYTES_MAX => {
                (reading.budget.pattern_bytes, reading.pattern_bytes) = (left, used);
                true
            }
            Some(_) | None => false,
        }
    }

    /// A regular expression in a field that must be there; a document holds so many.
    pub(crate) fn pattern(
        &mut self,
        key: &'static str,
        bytes_max: usize,
        compile: fn(&str) -> Result<Pattern, String>,
    ) -> Option<Pattern> {
        self.reading.patterns = self.reading.patterns.saturating_add(1);
        let number = self.reading.patterns;
        let fits = self.pays_for_pattern(key);
        self.required(key, |node| {
            let text = values::bounded(bytes_max)(node)?;
            if number > PATTERNS_MAX {
                let message = format!("is regular expression {number}, at most {PATTERNS_MAX} fit into a document");
                return Err(Bad::new(message));
            }
            if !fits {
                let message = format!(
                    "is too much: {DOCUMENT_PATTERN_BYTES_MAX} bytes of regular expressions fit into a document, \
                     {INPUT_PATTERN_BYTES_MAX} into one input"
                );
                return Err(Bad::new(message));
            }
            compile(text).map_err(|why| Bad::new(format!("is no regular expression that is read here: {why}")))
        })
    }

    /// A table in a field that may be absent.
    pub(crate) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Fields<'_, 'n>) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entry(key)?;
        let path = self.path.key(key);
        read_table(self.reading, &entry.node, path, read)
    }

    /// A list of tables; absent is empty. Of too many none is read.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        max: usize,
        mut read: impl FnMut(&mut Fields<'_, 'n>) -> Option<T>,
    ) -> Vec<T> {
        let nodes = self.elements(key, max);
        let path = self.path.key(key);
        let each = |(at, node)| read_table(self.reading, node, path.element(at), &mut read);
        nodes.iter().enumerate().filter_map(each).collect()
    }

    /// A list of single values; absent is empty. Of too many none is read.
    pub(crate) fn values<T>(
        &mut self,
        key: &'static str,
        max: usize,
        parse: impl Fn(&'n Node) -> Result<T, Bad>,
    ) -> Vec<T> {
        let nodes = self.elements(key, max);
        let path = self.path.key(key);
        let mut all = Vec::with_capacity(nodes.len());
        for (at, node) in nodes.iter().enumerate() {
            match parse(node) {
                Ok(value) => all.push(value),
                Err(bad) => self.reading.tell_bad(&path.element(at), node, bad),
            }
        }
        all
    }

    fn elements(&mut self, key: &'static str, max: usize) -> &'n [Node] {
        let Some(entry) = self.entry(key) else { return &[] };
        let bad = match &entry.node.value {
            Value::Array(nodes) if nodes.len() <= max => return nodes,
            Value::Array(nodes) => Bad::new(format!("has {} elements, at most {max} are allowed", nodes.len())),
            other @ (Value::String(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(..) | Value::Table(_)) => {
                Bad::new(format!("must be a list, not {}", other.kind())).note("write it in [ ]")
            }
        };
        self.reading.tell_bad(&self.path.key(key), &entry.node, bad);
        &[]
    }

    /// A table whose keys are the operator's own: each entry goes to `parse`.
    pub(crate) fn map<T>(
        &mut self,
        key: &'static str,
        max: usize,
        parse: impl Fn(&str, &'n Node) -> Result<T, Bad>,
    ) -> Vec<T> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let path = self.path.key(key);
        let table = match &entry.node.value {
            Value::Table(table) if table.len() <= max => table,
            Value::Table(table) => {
                let bad = Bad::new(format!("has {} entries, at most {max} are allowed", table.len()));
                self.reading.tell_bad(&path, &entry.node, bad);
                return Vec::new();
            }
            other @ (Value::String(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(..) | Value::Array(_)) => {
                let bad = Bad::new(format!("must be a table like {{name: value}}, not {}", other.kind()));
                self.reading.tell_bad(&path, &entry.node, bad);
                return Vec::new();
            }
        };
        let mut all = Vec::with_capacity(table.len());
        for (name, entry) in table {
            match parse(name, &entry.node) {
                Ok(value) => all.push(value),
                Err(bad) => self.reading.tell_bad(&path.key(name), &entry.node, bad),
            }
        }
        all
    }

    /// Fields that are right elsewhere and mean nothing here; they are not looked at.
    pub(crate) fn ignored(&mut self, keys: &[&'static str]) {
        self.asked.extend(keys);
    }

    /// A field of the standard that this release does not have: refused by name.
    pub(crate) fn later(&mut self, key: &'static str) {
        if self.entry(key).is_some() {
            self.bad_key(key, Bad::new("is a field that this release does not have"));
        }
    }

    /// A field that exists only in `starling/v1`.
    pub(crate) fn starling_only(&mut self, key: &'static str) {
        let Some(entry) = self.table.get(key).filter(|_| self.reading.dialect == Dialect::Standard) else { return };
        let path = self.path.key(key);
        let problem = Problem {
            note: Some("needs `apiVersion: starling/v1`".to_owned()),
            ..Problem::new(codes::STARLING_FIELD, format!("{} exists in starling/v1 only", path.dotted))
        };
        self.reading.tell(&path, &entry.key_at, problem);
    }

    /// Tells what is wrong with the value of a field, beyond its own form.
    pub(crate) fn bad(&mut self, key: &str, bad: Bad) {
        match self.table.get(key) {
            Some(entry) => self.reading.tell_bad(&self.path.key(key), &entry.node, bad),
            None => self.reading.tell_bad(&self.path, self.node, bad),
        }
    }

    /// Tells what is wrong with a field's being there.
    pub(crate) fn bad_key(&mut self, key: &str, bad: Bad) {
        let at = self.table.get(key).map_or(&self.node.at, |entry| &entry.key_at);
        let path = self.path.key(key);
        let problem =
            Problem { note: bad.note, ..Problem::new(codes::BAD_DOCUMENT, format!("{} {}", path.dotted, bad.message)) };
        self.reading.tell(&path, at, problem);
    }

    /// Tells what is wrong with the table as a whole.
    pub(crate) fn bad_table(&mut self, bad: Bad) {
        self.reading.tell_bad(&self.path, self.node, bad);
    }

    /// Tells what is right and yet not what somebody can mean, at a field or, where it is absent, at the table.
    pub(crate) fn warn(&mut self, key: &str, code: Code, message: impl Into<String>) {
        let (path, at) = match self.table.get(key) {
            Some(entry) => (self.path.key(key), &entry.key_at),
            None => (self.path.clone(), &self.node.at),
        };
        self.reading.tell(&path, at, Problem::new(code, message));
    }

    /// Tells every table of a list whose text in `name` an earlier one has, too.
    pub(crate) fn unique(&mut self, list: &str, name: &str) {
        let Some(Value::Array(nodes)) = self.table.get(list).map(|entry| &entry.node.value) else { return };
        let path = self.path.key(list);
        let mut seen: Vec<&str> = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            let Some(node) = node.value.as_table().and_then(|table| table.get(name)).map(|entry| &entry.node) else {
                continue;
            };
            let Value::String(text) = &node.value else { continue };
            if seen.contains(&text.as_str()) {
                self.reading.tell_bad(&path.element(at).key(name), node, Bad::new("stands here twice"));
            }
            seen.push(text);
        }
    }

    /// What the document's own top says of all that follows.
    pub(crate) fn set(&mut self, dialect: Dialect, namespace: Namespace) {
        self.reading.dialect = dialect;
        self.reading.namespace = namespace;
    }

    /// Where references without a namespace point to.
    pub(crate) fn namespace(&self) -> Namespace {
        self.reading.namespace.clone()
    }

    fn end(self) {
        for (key, entry) in self.table.iter().filter(|(key, _)| !self.asked.contains(&key.as_str())) {
            let path = self.path.key(key);
            let merge = (key == "<<").then(|| "merge keys are not read; write the fields out".to_owned());
            let near = || suggest(key, self.asked.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            let owner =
                if self.path.dotted.is_empty() { "at the top".to_owned() } else { format!("of {}", self.path.dotted) };
            let problem = Problem {
                note: merge.or_else(near),
                help: Some(format!("known {owner}: {}", self.asked.join(", "))),
                ..Problem::new(codes::UNKNOWN_FIELD, format!("unknown field `{}`", clip(key)))
            };
            self.reading.tell(&path, &entry.key_at, problem);
        }
    }
}
