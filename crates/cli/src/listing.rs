//! Lists: Docker's default columns, `--format table ...`, `--format json`, and plain templates.

use crate::error::Result;
use crate::table;
use gotemplate::Template;
use gotemplate::Value;

/// A row: every field a template may name.
pub(crate) type Row = Vec<(String, Value)>;

/// Makes a row of fields.
pub(crate) fn row<const N: usize>(fields: [(&str, Value); N]) -> Row {
    fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// What is listed and how it is headed.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The template without `table`, columns joined by `\t`.
    pub(crate) default: String,
    /// Field to heading.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

/// A chosen form of output.
#[derive(Debug)]
pub(crate) struct Form {
    template: Option<Template>,
    table: bool,
    headers: &'static [(&'static str, &'static str)],
}

impl Listing {
    /// Chooses by `--format`; empty is the default table.
    pub(crate) fn form(&self, format: Option<&str>) -> Result<Form> {
        let format = format.unwrap_or_default();
        let (table, text) = match format {
            "" | "table" => (true, self.default.clone()),
            "json" => return Ok(Form { template: None, table: false, headers: self.headers }),
            other => match other.strip_prefix("table") {
                Some(rest) => (true, rest.trim().to_string()),
                None => (false, other.to_string()),
            },
        };
        // In a shell's single quotes `\t` arrives as two characters.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        Ok(Form { template: Some(Template::parse(&text)?), table, headers: self.headers })
    }
}

impl Form {
    /// Whether the template names `field`, or the whole row. `json` does not, as Docker's does not.
    pub(crate) fn mentions(&self, field: &str) -> bool {
        self.template.as_ref().is_some_and(|t| t.mentions(field))
    }

    /// The text for `rows`.
    pub(crate) fn render(&self, rows: Vec<Row>) -> Result<String> {
        let mut out = String::new();
        if let (true, Some(template)) = (self.table, &self.template) {
            let mut headers: Row =
                self.headers.iter().map(|(field, name)| ((*field).to_string(), Value::from(*name))).collect();
            // `{{.Label "x"}}` is headed by the label's name.
            headers.push(("Label".into(), label_header()));
            out.push_str(&template.execute_header(&Value::Map(headers))?);
            out.push('\n');
        }
        for row in rows {
            out.push_str(&self.render_row(row)?);
            out.push('\n');
        }
        Ok(if self.table { table::align(&out) } else { out })
    }

    /// The text for one row, without the end of the line.
    pub(crate) fn render_row(&self, row: Row) -> Result<String> {
        match &self.template {
            Some(template) => Ok(template.execute(&Value::Map(row))?),
            None => {
                let mut row = row;
                row.sort_by(|a, b| a.0.cmp(&b.0));
                Ok(Value::Map(row).to_json())
            }
        }
    }
}

fn label_header() -> Value {
    Value::Method(std::rc::Rc::new(|arguments| {
        let name = arguments.first().map(Value::text).unwrap_or_default();
        let last = name.rsplit('.').next().unwrap_or(name);
        Ok(Value::Str(last.replace(['-', '_'], " ")))
    }))
}

/// `a=1,b=2` in the order of the names.
pub(crate) fn labels_text(labels: &Value) -> String {
    let mut all: Vec<String> = labels.members().iter().map(|(k, v)| format!("{k}={v}")).collect();
    all.sort();
    all.join(",")
}

/// `.Label "name"`.
pub(crate) fn label_method(labels: &Value) -> Value {
    let labels = labels.clone();
    Value::Method(std::rc::Rc::new(move |arguments| {
        let name = arguments.first().ok_or("wrong number of args for Label: want 1 got 0")?;
        Ok(labels.get(name.text()).cloned().unwrap_or_else(|| Value::from("")))
    }))
}

/// Docker's `--filter key=value` as the API's JSON of `{"key": {"value": true}}`; empty without filters.
pub(crate) fn filters(list: &[String]) -> Result<String> {
    let mut map = serde_json::Map::new();
    for text in list {
        let (key, value) = text.split_once('=').ok_or_else(|| crate::error::Error::Exit {
            code: 125,
            message: Some(format!(
                "invalid argument \"{text}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
            )),
        })?;
        let entry = map.entry(key.trim().to_lowercase()).or_insert_with(|| serde_json::json!({}));
        entry[value.trim()] = serde_json::json!(true);
    }
    Ok(if map.is_empty() { String::new() } else { serde_json::Value::Object(map).to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: fn() -> Listing = || Listing {
        default: "{{.ID}}\t{{.Name}}".into(),
        headers: &[("ID", "CONTAINER ID"), ("Name", "NAMES")],
    };

    fn check(format: Option<&str>, expected: &str) {
        let labels = serde_json::from_str(r#"{"com.x":"1"}"#).unwrap();
        let mut one = row([("Name", Value::from("web")), ("ID", Value::from("c9f0"))]);
        one.push(("Label".into(), label_method(&labels)));
        assert_eq!(LISTING().form(format).unwrap().render(vec![one]).unwrap(), expected);
    }

    #[test]
    fn forms() {
        check(None, "CONTAINER ID   NAMES\nc9f0           web\n");
        check(Some("table {{.Name}}"), "NAMES\nweb\n");
        check(Some("table {{json .Name}}\\t{{.Label \"com.x\"}}"), "NAMES     x\n\"web\"     1\n");
        check(Some("{{.ID}}"), "c9f0\n");
        check(
            Some("json"),
            "{\"ID\":\"c9f0\",\"Label\":null,\"Name\":\"web\"}\n".replace("\"Label\":null,", "").as_str(),
        );
    }

    #[test]
    fn filters_are_collected() {
        let filters = filters(&["label=a=b".into(), "label=c".into(), "status=exited".into()]).unwrap();
        assert_eq!(filters, r#"{"label":{"a=b":true,"c":true},"status":{"exited":true}}"#);
        assert!(super::filters(&["x".into()]).is_err());
    }
}
