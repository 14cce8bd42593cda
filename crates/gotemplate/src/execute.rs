//! Nodes and data to text.

use crate::Mode;
use crate::Value;
use crate::functions;
use crate::parser::{Branch, Node, Operand, Pipeline};

/// Most turns of all loops together. Only a range over a huge number could come near.
const MAX_TURNS: usize = 1_000_000;

pub(crate) fn execute(nodes: &[Node], data: &Value, mode: Mode) -> Result<String, String> {
    let mut machine = Machine {
        out: String::new(),
        variables: vec![(String::new(), data.clone())],
        line: 1,
        turns: 0,
        mode,
    };
    machine.nodes(nodes, data)?;
    Ok(machine.out)
}

/// Why a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Machine {
    out: String,
    variables: Vec<(String, Value)>,
    line: usize,
    turns: usize,
    mode: Mode,
}

impl Machine {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        let scope = self.variables.len();
        let mut flow = Flow::Next;
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow != Flow::Next {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action { line, pipeline } => {
                self.line = *line;
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.print(pipeline, &value)?;
                }
            }
            Node::If(branches, rest) => return self.branches(branches, rest, dot, false),
            Node::With(branches, rest) => return self.branches(branches, rest, dot, true),
            Node::Range(branch, rest) => return self.range(branch, rest, dot),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn print(&mut self, pipeline: &Pipeline, value: &Value) -> Result<(), String> {
        match value {
            Value::Nil => self.out.push_str("<no value>"),
            Value::Missing(name) if OPTIONAL.contains(&name.as_str()) => self.out.push_str("<nil>"),
            Value::Missing(name) => {
                let at = pipeline.commands.first().map(|c| source_of(c)).unwrap_or_default();
                return Err(format!(
                    ":{}: executing \"\" at <{at}>: map has no entry for key {name:?}",
                    self.line
                ));
            }
            value => self.out.push_str(&value.to_string()),
        }
        Ok(())
    }

    fn branches(
        &mut self,
        branches: &[Branch],
        rest: &[Node],
        dot: &Value,
        moves_dot: bool,
    ) -> Result<Flow, String> {
        let scope = self.variables.len();
        for branch in branches {
            self.line = branch.line;
            let value = self.pipeline(&branch.pipeline, dot)?;
            if value.truth() {
                let flow = self.nodes(&branch.body, if moves_dot { &value } else { dot });
                self.variables.truncate(scope);
                return flow;
            }
        }
        let flow = self.nodes(rest, dot);
        self.variables.truncate(scope);
        flow
    }

    fn range(&mut self, branch: &Branch, rest: &[Node], dot: &Value) -> Result<Flow, String> {
        self.line = branch.line;
        let pipeline = &branch.pipeline;
        let scope = self.variables.len();
        let over = self.commands(pipeline, dot)?;
        let turns: Vec<(Value, Value)> = match over {
            Value::List(items) => (0i128..).map(Value::Int).zip(items).collect(),
            Value::Map(mut members) => {
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members.into_iter().map(|(key, value)| (Value::Str(key), value)).collect()
            }
            Value::Int(count) if count <= MAX_TURNS as i128 => {
                (0..count).map(|i| (Value::Int(i), Value::Int(i))).collect()
            }
            value if !value.truth() => Vec::new(),
            value => return Err(self.at(pipeline, &format!("range can't iterate over {value}"))),
        };
        if turns.is_empty() {
            return self.nodes(rest, dot);
        }
        for (key, value) in turns {
            self.turns += 1;
            if self.turns > MAX_TURNS {
                return Err(self.at(pipeline, "too many turns"));
            }
            let set = match pipeline.variables.as_slice() {
                [] => Vec::new(),
                [only] => vec![(only, value.clone())],
                [index, element, ..] => vec![(index, key), (element, value.clone())],
            };
            for (name, value) in set {
                self.set(name, value, pipeline.declares);
            }
            let flow = self.nodes(&branch.body, &value)?;
            if pipeline.declares {
                self.variables.truncate(scope);
            }
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) {
        if !declares && let Some((_, old)) = self.variables.iter_mut().rev().find(|(n, _)| n == name) {
            *old = value;
            return;
        }
        self.variables.push((name.to_string(), value));
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or_default())
    }

    /// Calls the first operand with the others, and with what came through the pipe last.
    fn command(&mut self, operands: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value, String> {
        let Some((first, rest)) = operands.split_first() else { return Ok(Value::Nil) };
        match first {
            Operand::Function(name) => self.call_function(name, rest, piped, dot, operands),
            Operand::Chain(base, fields) => {
                let base = self.operand(base, dot)?;
                let target = self.fields(base, fields, operands)?;
                self.call_method(target, rest, piped, dot, operands)
            }
            operand => {
                let value = self.operand(operand, dot)?;
                if rest.is_empty() && piped.is_none() {
                    return Ok(value);
                }
                Err(self.error(operands, &format!("can't give argument to non-function {}", source(first))))
            }
        }
    }

    fn call_function(
        &mut self,
        name: &str,
        rest: &[Operand],
        piped: Option<Value>,
        dot: &Value,
        whole: &[Operand],
    ) -> Result<Value, String> {
        // `and` and `or` stop at the first operand that decides.
        if matches!(name, "and" | "or") {
            let mut value = Value::Nil;
            for operand in rest {
                value = self.operand(operand, dot)?;
                if value.truth() == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(piped.unwrap_or(value));
        }
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        functions::call(name, &arguments, self.mode)
            .map_err(|message| self.error(whole, &format!("error calling {name}: {message}")))
    }

    fn call_method(
        &mut self,
        target: Value,
        rest: &[Operand],
        piped: Option<Value>,
        dot: &Value,
        whole: &[Operand],
    ) -> Result<Value, String> {
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        match target {
            Value::Method(method) => method(&arguments).map_err(|message| self.error(whole, &message)),
            value if arguments.is_empty() || self.mode == Mode::Header => Ok(value),
            value => Err(self.error(whole, &format!("{} is not a method but has arguments", value.kind()))),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Dot => Ok(dot.clone()),
            Operand::Variable(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                Ok(found.map(|(_, value)| value.clone()).unwrap_or_default())
            }
            Operand::Parenthesis(pipeline) => self.pipeline(pipeline, dot),
            Operand::Function(_) => self.command(std::slice::from_ref(operand), None, dot),
            Operand::Chain(base, fields) => {
                let base = self.operand(base, dot)?;
                let whole = std::slice::from_ref(operand);
                let target = self.fields(base, fields, whole)?;
                self.call_method(target, &[], None, dot, whole)
            }
        }
    }

    fn fields(&self, base: Value, fields: &[String], whole: &[Operand]) -> Result<Value, String> {
        let mut value = base;
        for (depth, field) in fields.iter().enumerate() {
            value = match value {
                Value::Map(members) => members
                    .into_iter()
                    .filter_map(|(name, value)| Some((likeness(&name, field)?, value)))
                    .max_by_key(|(likeness, _)| *likeness)
                    .map_or_else(
                        || match (self.mode, depth) {
                            // Of the structure itself, whose fields are texts, and left out of the JSON where empty.
                            (Mode::Texts, 0) if GO_NAMES.iter().any(|(go, _)| go == field) => Value::from(""),
                            (Mode::Texts, 1..) => Value::Nil,
                            _ => Value::Missing(field.clone()),
                        },
                        |(_, value)| value,
                    ),
                Value::Missing(name) => {
                    return Err(self.error(whole, &format!("map has no entry for key {name:?}")));
                }
                Value::Nil => {
                    return Err(self.error(whole, &format!("nil data; no entry for key {field:?}")));
                }
                other => {
                    let message = format!("can't evaluate field {field} in type {}", other.kind());
                    return Err(self.error(whole, &message));
                }
            };
        }
        Ok(value)
    }

    fn error(&self, whole: &[Operand], message: &str) -> String {
        format!(":{}: executing \"\" at <{}>: {message}", self.line, source_of(whole))
    }

    fn at(&self, pipeline: &Pipeline, message: &str) -> String {
        self.error(pipeline.commands.first().map_or(&[], Vec::as_slice), message)
    }
}

/// How much a member of this name is what `.field` means: docker executes templates on its own structures first, whose
/// fields have Go's names, and then on the JSON.
fn likeness(name: &str, field: &str) -> Option<u8> {
    match name {
        _ if name == field => Some(2),
        _ if GO_NAMES.contains(&(field, name)) => Some(1),
        _ => None,
    }
}

/// Fields that docker's structures have, and its JSON leaves out where they are empty.
const OPTIONAL: &[&str] = &["Health"];

/// Names of fields in docker's structures, where their JSON has others.
const GO_NAMES: &[(&str, &str)] = &[
    ("APIVersion", "ApiVersion"),
    ("AuxAddress", "AuxiliaryAddresses"),
    ("CPUCfsPeriod", "CpuCfsPeriod"),
    ("CPUCfsQuota", "CpuCfsQuota"),
    ("CPUCount", "CpuCount"),
    ("CPUPercent", "CpuPercent"),
    ("CPUPeriod", "CpuPeriod"),
    ("CPUQuota", "CpuQuota"),
    ("CPURealtimePeriod", "CpuRealtimePeriod"),
    ("CPURealtimeRuntime", "CpuRealtimeRuntime"),
    ("CPUShares", "CpuShares"),
    ("DNS", "Dns"),
    ("DNSOptions", "DnsOptions"),
    ("DNSSearch", "DnsSearch"),
    ("From", "from"),
    ("HostIP", "HostIp"),
    ("ID", "Id"),
    ("ID", "id"),
    ("NanoCPUs", "NanoCpus"),
    ("Scope", "scope"),
    ("Status", "status"),
    ("Time", "time"),
    ("TimeNano", "timeNano"),
];

/// A command the way it was typed, more or less.
fn source_of(operands: &[Operand]) -> String {
    operands.iter().map(source).collect::<Vec<_>>().join(" ")
}

fn source(operand: &Operand) -> String {
    match operand {
        Operand::Literal(Value::Str(text)) => format!("{text:?}"),
        Operand::Literal(value) => value.to_string(),
        Operand::Dot => ".".into(),
        Operand::Function(name) => name.clone(),
        Operand::Variable(name) => format!("${name}"),
        Operand::Parenthesis(pipeline) => {
            let commands: Vec<_> = pipeline.commands.iter().map(|c| source_of(c)).collect();
            format!("({})", commands.join(" | "))
        }
        Operand::Chain(base, fields) => {
            let base = if matches!(**base, Operand::Dot) { String::new() } else { source(base) };
            format!("{base}.{}", fields.join("."))
        }
    }
}
