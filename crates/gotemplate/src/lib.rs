//! Go's `text/template`, as much of it as Docker's `--format` needs: fields, methods, pipelines, variables, `if`,
//! `with`, `range`, comparisons, `printf` and Docker's own functions.
//!
//! A template is parsed once into a list of [`Node`]s and executed on one [`Value`] after the other. Language:
//! <https://pkg.go.dev/text/template>.

mod execute;
mod functions;
mod lexer;
mod parser;

mod text;
mod value;

use parser::Node;
pub use text::{quote, significant};
pub use value::{Method, Value};

/// Why a template gave nothing. The words are docker's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no template.
    #[error("template parsing error: template: {0}")]
    Parse(String),
    /// It does not fit what it is executed on.
    #[error("failed to execute template: template: {0}")]
    Execute(String),
}

type Result<T> = std::result::Result<T, Error>;

/// Deepest nesting of blocks, parentheses and calls. Formats are typed by people; this only keeps the stack sound.
const MAX_DEPTH: usize = 100;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<Node>,
}

/// Whether functions transform or leave the header of a table as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Row,
    /// `{{json .ID}}` in a table is headed `CONTAINER ID`, not `"CONTAINER ID"`.
    Header,
    /// What is missing below the first level has no value, and is no mistake: docker's maps of texts.
    Texts,
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// [`Error::Parse`] with the line and what is wrong there.
    pub fn parse(text: &str) -> Result<Template> {
        let tokens = lexer::lex(text).map_err(Error::Parse)?;
        Ok(Template { nodes: parser::parse(&tokens).map_err(Error::Parse)? })
    }

    /// Executes on `data`, which is `.` and `$`.
    pub fn execute(&self, data: &Value) -> Result<String> {
        self.run(data, Mode::Row)
    }

    /// The same for data whose inner maps hold texts, such as the attributes of events: a key that is missing has no value.
    pub fn execute_on_texts(&self, data: &Value) -> Result<String> {
        self.run(data, Mode::Texts)
    }

    /// Executes on the names of columns instead of their content.
    pub fn execute_header(&self, data: &Value) -> Result<String> {
        self.run(data, Mode::Header)
    }

    /// Whether a field or method of this name appears anywhere.
    pub fn mentions(&self, field: &str) -> bool {
        parser::mentions(&self.nodes, field)
    }

    fn run(&self, data: &Value, mode: Mode) -> Result<String> {
        execute::execute(&self.nodes, data, mode).map_err(Error::Execute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Value {
        serde_json::from_str(
            r#"{"ID":"c9f0","Name":"/web","N":3,"F":1.5,"Yes":true,"No":false,"Null":null,"Empty":"",
                "List":["a","b","c"],"Map":{"z":"1","a":"2"},
                "State":{"Running":true,"Pid":42},
                "Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"81/tcp":null}}"#,
        )
        .unwrap()
    }

    fn check(template: &str, expected: &str) {
        let parsed = Template::parse(template).unwrap_or_else(|e| panic!("{template}: {e}"));
        let out = parsed.execute(&data()).unwrap_or_else(|e| panic!("{template}: {e}"));
        assert_eq!(out, expected, "{template}");
    }

    fn check_error(template: &str, expected: &str) {
        let error = Template::parse(template).and_then(|t| t.execute(&data())).unwrap_err().to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }

    #[test]
    fn fields_and_text() {
        check("", "");
        check("plain", "plain");
        check("{{.ID}}: {{.State.Pid}}", "c9f0: 42");
        check("{{ .State }}", "map[Pid:42 Running:true]");
        check("{{$.ID}}{{$x := .N}}{{$x}}", "c9f03");
        check("{{.Null}}|{{.List}}", "<no value>|[a b c]");
        check("{{/* note */}}x", "x");
        check("{{.}}", &data().to_string());
    }

    #[test]
    fn names_of_dockers_structures() {
        let data = serde_json::from_str::<Value>(r#"{"Id":"x","scope":"local","HostConfig":{"Dns":["1"]}}"#)
            .unwrap();
        let template = Template::parse("{{.ID}} {{.Id}} {{.Scope}} {{.HostConfig.DNS}}").unwrap();
        assert_eq!(template.execute(&data).unwrap(), "x x local [1]");
        check_error("{{.Id}}", "no entry for key \"Id\"");
        let template = Template::parse("{{.HostConfig.None}}").unwrap();
        assert_eq!(template.execute_on_texts(&data).unwrap(), "<no value>");
        assert!(Template::parse("{{.None}}").unwrap().execute_on_texts(&data).is_err());
        assert_eq!(Template::parse("{{.From}}").unwrap().execute_on_texts(&data).unwrap(), "");
        check("{{.State.Health}}{{if .State.Health}}x{{end}}", "<nil>");
        check("{{index .Map \"none\"}}|{{index .Ports \"none\"}}", "|<no value>");
    }

    #[test]
    fn trim_markers() {
        check("a  {{- .ID -}}  b", "ac9f0b");
        check("a {{- /* x */ -}} b", "ab");
        check("a {{.N}} b", "a 3 b");
    }

    #[test]
    fn functions() {
        check("{{json .List}}{{json .Null}}", r#"["a","b","c"]null"#);
        check("{{json .Map}}", r#"{"z":"1","a":"2"}"#);
        check("{{join .List \", \"}}", "a, b, c");
        check("{{upper .ID}}{{lower \"ABC\"}}{{title \"ab cd\"}}", "C9F0abcAb Cd");
        check("{{split \"a,b\" \",\"}}", "[a b]");
        check("{{index (split .Name \"/\") 1}}", "web");
        check("{{len .List}}{{len .Name}}{{len .Map}}", "342");
        check("{{index .Map \"z\"}}{{index .List 2}}", "1c");
        check("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080");
        check("{{println .ID .N}}", "c9f0 3\n");
        check("{{print 1 2 \"x\"}}", "1 2x");
        check("{{truncate .ID 2}}{{pad .ID 1 2}}|", "c9 c9f0  |");
        check("{{slice .Name 1}}{{slice .Name 1 2}}", "webw");
        check("{{html \"<a>\"}}{{js \"it's\"}}{{urlquery \"a b\"}}", "&lt;a&gt;it\\'sa+b");
    }

    #[test]
    fn printf() {
        check("{{printf \"%s=%d\" .ID .N}}", "c9f0=3");
        check("{{printf \"%5d|%-5d|%05d\" .N .N .N}}", "    3|3    |00003");
        check("{{printf \"%q %v %t %%\" .ID .List .Yes}}", "\"c9f0\" [a b c] true %");
        check("{{printf \"%.2f %x %X %6.1f\" .F 255 255 .F}}", "1.50 ff FF    1.5");
        check("{{printf \"%-8s|%8s|%.2s\" .ID .ID .ID}}", "c9f0    |    c9f0|c9");
        check("{{printf \"%d\" .ID}}", "%!d(string=c9f0)");
        check("{{printf \"%s\"}}", "%!s(MISSING)");
    }

    #[test]
    fn pipelines() {
        check("{{.ID | upper | printf \"%s!\"}}", "C9F0!");
        check("{{.List | len}}", "3");
        check("{{\"a b\" | printf \"%q\"}}", "\"a b\"");
        check("{{`raw\\n`}}", "raw\\n");
        check("{{'a'}}", "97");
    }

    #[test]
    fn conditions() {
        check("{{if .Yes}}y{{else}}n{{end}}", "y");
        check("{{if .No}}y{{else if .N}}m{{else}}n{{end}}", "m");
        check("{{if not .No}}y{{end}}", "y");
        check("{{if and .Yes .No}}y{{else}}n{{end}}", "n");
        check("{{if or .No .Yes}}y{{end}}", "y");
        check("{{if .State.Health}}y{{else}}none{{end}}", "none");
        check("{{if eq .ID \"x\" \"c9f0\"}}y{{end}}", "y");
        check("{{if ne .N 4}}y{{end}}{{if lt .N 4}}y{{end}}{{if ge .N 3}}y{{end}}", "yyy");
        check("{{with .State}}{{.Pid}}{{$.ID}}{{else}}n{{end}}", "42c9f0");
        check("{{with .Empty}}x{{else with .ID}}{{.}}{{end}}", "c9f0");
        check("{{with $x := .N}}{{$x}}{{end}}", "3");
    }

    #[test]
    fn loops() {
        check("{{range .List}}{{.}},{{end}}", "a,b,c,");
        check("{{range $i, $e := .List}}{{if $i}},{{end}}{{$i}}{{$e}}{{end}}", "0a,1b,2c");
        check("{{range $k, $v := .Map}}{{$k}}={{$v}} {{end}}", "a=2 z=1 ");
        check(
            "{{range $p, $conf := .Ports}}{{$p}} -> {{(index $conf 0).HostPort}}{{break}}{{end}}",
            "80/tcp -> 8080",
        );
        check("{{range .Empty}}x{{else}}none{{end}}", "none");
        check("{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac");
        check("{{$n := 0}}{{range .List}}{{$n = .}}{{end}}{{$n}}", "c");
        check("{{range 3}}{{.}}{{end}}", "012");
    }

    #[test]
    fn methods() {
        let label = Value::Method(std::rc::Rc::new(|arguments: &[Value]| {
            Ok(Value::Str(format!("<{}>", arguments.first().map(Value::text).unwrap_or_default())))
        }));
        let row = Value::Map(vec![("Label".into(), label)]);
        let template = Template::parse("{{.Label \"x\"}}{{\"y\" | .Label}}").unwrap();
        assert_eq!(template.execute(&row).unwrap(), "<x><y>");
        assert!(template.mentions("Label") && !template.mentions("Size"));
    }

    #[test]
    fn headers_are_left_alone() {
        let template = Template::parse("{{json .ID}}\t{{.Name | upper}}").unwrap();
        let headers = serde_json::from_str(r#"{"ID":"Container ID","Name":"NAMES"}"#).unwrap();
        assert_eq!(template.execute_header(&headers).unwrap(), "Container ID\tNAMES");
    }

    #[test]
    fn mistakes_are_named() {
        check_error("{{.Foo}}", "executing \"\" at <.Foo>: map has no entry for key \"Foo\"");
        check_error("{{.ID.Foo}}", "can't evaluate field Foo in type string");
        check_error("{{.State.Health.Status}}", "map has no entry for key \"Health\"");
        check_error("{{nosuch .ID}}", "function \"nosuch\" not defined");
        check_error("{{if .ID}}", "unexpected EOF");
        check_error("{{end}}", "unexpected {{end}}");
        check_error("{{.ID", "unclosed action");
        check_error("{{\"x}}", "unterminated quoted string");
        check_error("a\n{{$x}}", ":2: undefined variable \"$x\"");
        check_error("{{index .List 9}}", "index out of range: 9");
        check_error("{{lt .ID .N}}", "incompatible types for comparison");
        check_error("{{break}}", "{{break}} outside {{range}}");
        let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
        check_error(&format!("{{{{{deep}}}}}"), "nested too deeply");
    }
}
