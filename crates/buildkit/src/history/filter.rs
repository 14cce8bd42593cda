//! Filters of the history: `ref`, `repository`, `status`, `startedAt`, `completedAt`, `duration`.
//!
//! Each text is a list with commas, of which all have to hold; of several texts one. Values of times are RFC 3339, or how long
//! ago it was; those of `duration` are durations, all as Go writes them.

use crate::rpc::Reply;
use crate::wire::{HistoryRecord, Timestamp};
use jiff::Timestamp as Time;
use tonic::{Code, Status};

/// Which records are meant.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Vec<Filter>>);

#[derive(Debug)]
enum Filter {
    Text { key: Key, sign: Sign, value: String },
    Number { key: Key, sign: Sign, value: i128 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Reference,
    Repository,
    Status,
    StartedAt,
    CompletedAt,
    Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Equal,
    Differs,
    Contains,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones before their beginnings.
const SIGNS: &[(&str, Sign)] = &[
    ("==", Sign::Equal),
    ("!=", Sign::Differs),
    ("~=", Sign::Contains),
    ("<=", Sign::LessOrEqual),
    (">=", Sign::GreaterOrEqual),
    ("<", Sign::Less),
    (">", Sign::Greater),
    ("=", Sign::Equal),
];

impl Filters {
    pub(crate) fn parse(all: &[String]) -> Reply<Filters> {
        let lists = all.iter().map(|list| fields(list).iter().map(|text| Filter::parse(text)).collect());
        lists.collect::<Reply<Vec<Vec<Filter>>>>().map(Filters)
    }

    pub(crate) fn match_all(&self, record: &HistoryRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|list| list.iter().all(|filter| filter.holds(record)))
    }
}

/// The fields of a line of comma separated values, which may stand in quotes.
fn fields(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut is_quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let field = out.last_mut().expect("there is one at least");
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => out.push(String::new()),
            other => field.push(other),
        }
    }
    out.retain(|field| !field.is_empty());
    out
}

impl Filter {
    fn parse(text: &str) -> Reply<Filter> {
        let wrong = || Status::invalid_argument(format!("invalid filter {text:?}"));
        let at = text.find(['=', '!', '~', '<', '>']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(at);
        let (sign, value) = SIGNS
            .iter()
            .find_map(|(text, sign)| Some((*sign, rest.strip_prefix(text)?.trim())))
            .ok_or_else(wrong)?;
        let key = match name.trim() {
            "ref" => Key::Reference,
            "repository" => Key::Repository,
            "status" => Key::Status,
            "startedAt" => Key::StartedAt,
            "completedAt" => Key::CompletedAt,
            "duration" => Key::Duration,
            _ => return Err(Status::invalid_argument(format!("unsupported filter {text:?}"))),
        };
        let is_order = matches!(sign, Sign::Less | Sign::LessOrEqual | Sign::Greater | Sign::GreaterOrEqual);
        let value = value.trim_matches('"');
        match key {
            Key::Reference | Key::Repository | Key::Status if !is_order => {
                Ok(Filter::Text { key, sign, value: value.into() })
            }
            Key::StartedAt | Key::CompletedAt if is_order => {
                let ago = duration(value).map(|ns| Time::now().as_nanosecond() - ns);
                let time = ago.or_else(|| Some(value.parse::<Time>().ok()?.as_nanosecond()));
                Ok(Filter::Number { key, sign, value: time.ok_or_else(wrong)? })
            }
            Key::Duration if is_order => {
                Ok(Filter::Number { key, sign, value: duration(value).ok_or_else(wrong)? })
            }
            _ => Err(wrong()),
        }
    }

    fn holds(&self, record: &HistoryRecord) -> bool {
        match self {
            Filter::Text { key, sign, value } => {
                let own = text_of(record, *key);
                match sign {
                    Sign::Differs => own != value,
                    Sign::Contains => own.contains(value.as_str()),
                    _ => own == value,
                }
            }
            Filter::Number { key, sign, value } => {
                let Some(own) = number_of(record, *key) else { return false };
                match sign {
                    Sign::Less => own < *value,
                    Sign::LessOrEqual => own <= *value,
                    Sign::Greater => own > *value,
                    _ => own >= *value,
                }
            }
        }
    }
}

fn text_of(record: &HistoryRecord, key: Key) -> &str {
    match key {
        Key::Reference => &record.reference,
        Key::Repository => ["vcs:source", "context"]
            .iter()
            .find_map(|name| record.frontend_attrs.get(*name))
            .map_or("", String::as_str),
        _ => match (&record.error, record.completed_at) {
            (_, None) => "running",
            (None, _) => "completed",
            (Some(error), _) if error.code == Code::Cancelled as i32 => "canceled",
            (Some(_), _) => "error",
        },
    }
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn number_of(record: &HistoryRecord, key: Key) -> Option<i128> {
    let (begun, done) = (record.created_at.map(nanoseconds), record.completed_at.map(nanoseconds));
    match key {
        Key::StartedAt => begun,
        Key::CompletedAt => done,
        _ => Some(done? - begun?),
    }
}

/// Nanoseconds of a duration as Go writes it: `1h2m3.5s`.
fn duration(text: &str) -> Option<i128> {
    let mut rest = text;
    let mut sum = 0i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: i128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let mut part = part.to_string();
        part.truncate(9);
        let scale = 10i128.pow(u32::try_from(part.len()).ok()?);
        let part: i128 = if part.is_empty() { 0 } else { part.parse().ok()? };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
        sum = sum.checked_add(whole.checked_mul(unit)?)?.checked_add(part * unit / scale)?;
        rest = tail;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RpcStatus;

    #[test]
    fn durations_are_those_of_go() {
        assert_eq!(duration("1h2m3.5s"), Some(3_723_500_000_000));
        assert_eq!((duration("300ms"), duration("0s")), (Some(300_000_000), Some(0)));
        for bad in ["", "1", "s", ".s", "1x", "-1s", "1s2"] {
            assert!(duration(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn filters_hold_or_do_not() {
        let record = HistoryRecord {
            reference: "abc".into(),
            created_at: Some(Timestamp { seconds: 1000, nanos: 0 }),
            completed_at: Some(Timestamp { seconds: 1010, nanos: 0 }),
            error: Some(RpcStatus { code: Code::Unknown as i32, ..RpcStatus::default() }),
            frontend_attrs: [("vcs:source".to_string(), "https://x/y.git".to_string())].into(),
            ..HistoryRecord::default()
        };
        let holds = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|t| t.to_string()).collect();
            Filters::parse(&texts).expect("good").match_all(&record)
        };
        assert!(holds(&[]) && holds(&["ref~=b"]) && !holds(&["ref==b"]));
        assert!(holds(&["status==error,duration>=10s"]) && !holds(&["status==error,duration>10s"]));
        assert!(holds(&["status==running", "repository~=y.git"]));
        assert!(holds(&["\"ref~=a\",startedAt<1h"]) && !holds(&["startedAt>1h"]));
        assert!(holds(&["completedAt>=1970-01-01T00:16:50Z"]));
        for bad in ["ref", "ref<a", "strange==x", "duration==1s", "startedAt>soon"] {
            assert!(Filters::parse(&[bad.to_string()]).is_err(), "{bad}");
        }
    }
}
