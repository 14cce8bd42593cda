//! Tokens to nodes.

use crate::MAX_DEPTH;
use crate::Value;
use crate::functions;
use crate::lexer::{Kind, Token};

/// A piece of a template.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Text(String),
    /// `{{pipeline}}`; prints unless it only sets variables.
    Action {
        line: usize,
        pipeline: Pipeline,
    },
    If(Vec<Branch>, Vec<Node>),
    With(Vec<Branch>, Vec<Node>),
    Range(Branch, Vec<Node>),
    Break,
    Continue,
}

/// A condition and what happens where it holds.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    pub(crate) line: usize,
    pub(crate) pipeline: Pipeline,
    pub(crate) body: Vec<Node>,
}

/// `$a, $b := command | command`.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    pub(crate) variables: Vec<String>,
    /// `:=` makes new variables, `=` changes existing ones.
    pub(crate) declares: bool,
    pub(crate) commands: Vec<Vec<Operand>>,
}

/// One word of a command.
#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Literal(Value),
    Dot,
    Function(String),
    /// A base and the fields taken from it; the base of `.A.B` is the dot.
    Chain(Box<Operand>, Vec<String>),
    Variable(String),
    Parenthesis(Box<Pipeline>),
}

pub(crate) fn parse(tokens: &[Token]) -> Result<Vec<Node>, String> {
    let mut parser = Parser { tokens, at: 0, depth: 0, ranges: 0, scopes: vec![String::new()] };
    let (nodes, end) = parser.nodes()?;
    match end {
        Ending::Eof => Ok(nodes),
        Ending::End(line) => Err(format!(":{line}: unexpected {{{{end}}}}")),
        Ending::Else(line) => Err(format!(":{line}: unexpected {{{{else}}}}")),
    }
}

/// Whether `field` is taken from anything in `nodes`.
pub(crate) fn mentions(nodes: &[Node], field: &str) -> bool {
    let branch = |b: &Branch| pipeline_mentions(&b.pipeline, field) || mentions(&b.body, field);
    nodes.iter().any(|node| match node {
        Node::Text(_) | Node::Break | Node::Continue => false,
        Node::Action { pipeline, .. } => pipeline_mentions(pipeline, field),
        Node::If(branches, rest) | Node::With(branches, rest) => {
            branches.iter().any(branch) || mentions(rest, field)
        }
        Node::Range(body, rest) => branch(body) || mentions(rest, field),
    })
}

fn pipeline_mentions(pipeline: &Pipeline, field: &str) -> bool {
    pipeline.commands.iter().flatten().any(|operand| operand_mentions(operand, field))
}

fn operand_mentions(operand: &Operand, field: &str) -> bool {
    match operand {
        Operand::Chain(base, fields) => {
            fields.iter().any(|f| f == field)
                || (!matches!(**base, Operand::Dot) && operand_mentions(base, field))
        }
        Operand::Parenthesis(pipeline) => pipeline_mentions(pipeline, field),
        // The whole row, as in `{{json .}}`.
        Operand::Dot => true,
        Operand::Literal(_) | Operand::Function(_) | Operand::Variable(_) => false,
    }
}

/// What ended a list of nodes. `Else` leaves the parser behind the word, within the action.
enum Ending {
    Eof,
    End(usize),
    Else(usize),
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    ranges: usize,
    /// Names of the variables in scope; `$` is the empty name.
    scopes: Vec<String>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|t| &t.kind)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Kind::Word(w)) if w == word);
        self.at += usize::from(found);
        found
    }

    fn close(&mut self, context: &str) -> Result<(), String> {
        let line = self.line();
        match self.peek() {
            Some(Kind::Close) => {
                self.at += 1;
                Ok(())
            }
            Some(other) => Err(format!(":{line}: unexpected {} in {context}", describe(other))),
            None => Err(format!(":{line}: unexpected EOF")),
        }
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, Ending), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(":{}: nested too deeply", self.line()));
        }
        let mut nodes = Vec::new();
        let ending = loop {
            let line = self.line();
            match self.peek() {
                None => break Ending::Eof,
                Some(Kind::Text(text)) => {
                    nodes.push(Node::Text(text.clone()));
                    self.at += 1;
                    continue;
                }
                Some(_) => self.at += 1,
            }
            if self.take_word("end") {
                self.close("end")?;
                break Ending::End(line);
            }
            if self.take_word("else") {
                break Ending::Else(line);
            }
            nodes.push(self.action(line)?);
        };
        self.depth -= 1;
        Ok((nodes, ending))
    }

    /// After `{{`, which is not `end` nor `else`.
    fn action(&mut self, line: usize) -> Result<Node, String> {
        if self.take_word("if") {
            let (branches, rest) = self.branches("if", line)?;
            return Ok(Node::If(branches, rest));
        }
        if self.take_word("with") {
            let (branches, rest) = self.branches("with", line)?;
            return Ok(Node::With(branches, rest));
        }
        if self.take_word("range") {
            return self.range(line);
        }
        for (word, node) in [("break", Node::Break), ("continue", Node::Continue)] {
            if self.take_word(word) {
                if self.ranges == 0 {
                    return Err(format!(":{line}: {{{{{word}}}}} outside {{{{range}}}}"));
                }
                self.close(word)?;
                return Ok(node);
            }
        }
        for word in ["define", "template", "block"] {
            if self.take_word(word) {
                return Err(format!(":{line}: {{{{{word}}}}} is not supported"));
            }
        }
        let pipeline = self.pipeline(false)?;
        self.close("command")?;
        Ok(Node::Action { line, pipeline })
    }

    /// `if` and `with`, with their `else` and `else if` chains.
    fn branches(&mut self, word: &str, line: usize) -> Result<(Vec<Branch>, Vec<Node>), String> {
        let scope = self.scopes.len();
        let mut branches = Vec::new();
        let mut line = line;
        let rest = loop {
            let pipeline = self.pipeline(false)?;
            self.close(word)?;
            let (body, ending) = self.nodes()?;
            branches.push(Branch { line, pipeline, body });
            match ending {
                Ending::Eof => return Err(format!(":{line}: unexpected EOF")),
                Ending::End(_) => break Vec::new(),
                Ending::Else(at) => {
                    if self.take_word(word) {
                        line = at;
                        continue;
                    }
                    break self.last_else()?;
                }
            }
        };
        self.scopes.truncate(scope);
        Ok((branches, rest))
    }

    fn range(&mut self, line: usize) -> Result<Node, String> {
        let scope = self.scopes.len();
        let pipeline = self.pipeline(true)?;
        self.close("range")?;
        self.ranges += 1;
        let (body, ending) = self.nodes()?;
        self.ranges -= 1;
        let rest = match ending {
            Ending::Eof => return Err(format!(":{line}: unexpected EOF")),
            Ending::End(_) => Vec::new(),
            Ending::Else(_) => self.last_else()?,
        };
        self.scopes.truncate(scope);
        Ok(Node::Range(Branch { line, pipeline, body }, rest))
    }

    fn last_else(&mut self) -> Result<Vec<Node>, String> {
        self.close("else")?;
        let (nodes, ending) = self.nodes()?;
        match ending {
            Ending::End(_) => Ok(nodes),
            Ending::Eof => Err(format!(":{}: unexpected EOF", self.line())),
            Ending::Else(line) => Err(format!(":{line}: expected end; found {{{{else}}}}")),
        }
    }

    fn pipeline(&mut self, two_variables: bool) -> Result<Pipeline, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(":{}: nested too deeply", self.line()));
        }
        let (variables, declares) = self.variables(two_variables)?;
        let mut commands = vec![self.command()?];
        while matches!(self.peek(), Some(Kind::Pipe)) {
            self.at += 1;
            commands.push(self.command()?);
        }
        // Visible from here on: `{{$x := $x}}` reads the old one.
        if declares {
            self.scopes.extend(variables.iter().cloned());
        }
        self.depth -= 1;
        Ok(Pipeline { variables, declares, commands })
    }

    /// `$x :=`, `$x =`, and in a range `$i, $x :=`; nothing where none stands.
    fn variables(&mut self, two: bool) -> Result<(Vec<String>, bool), String> {
        let kind = |at: usize| self.tokens.get(at).map(|t| &t.kind);
        let Some(Kind::Variable(first)) = kind(self.at) else { return Ok((Vec::new(), false)) };
        let (names, operator) = match (kind(self.at + 1), kind(self.at + 2), two) {
            (Some(Kind::Comma), Some(Kind::Variable(second)), true) => {
                (vec![first.clone(), second.clone()], self.at + 3)
            }
            _ => (vec![first.clone()], self.at + 1),
        };
        let declares = match kind(operator) {
            Some(Kind::Declare) => true,
            Some(Kind::Assign) => false,
            _ => return Ok((Vec::new(), false)),
        };
        if !declares {
            for name in &names {
                self.check_variable(name)?;
            }
        }
        self.at = operator + 1;
        Ok((names, declares))
    }

    fn check_variable(&self, name: &str) -> Result<(), String> {
        if self.scopes.iter().any(|n| n == name) {
            return Ok(());
        }
        Err(format!(":{}: undefined variable \"${name}\"", self.line()))
    }

    fn command(&mut self) -> Result<Vec<Operand>, String> {
        let mut operands = Vec::new();
        loop {
            let line = self.line();
            let operand = match self.peek() {
                Some(Kind::Close | Kind::Pipe | Kind::RightParen) | None if !operands.is_empty() => {
                    return Ok(operands);
                }
                Some(Kind::Close | Kind::Pipe | Kind::RightParen) => {
                    return Err(format!(":{line}: missing value for command"));
                }
                None => return Err(format!(":{line}: unexpected EOF")),
                Some(_) => self.operand()?,
            };
            operands.push(self.fields(operand));
        }
    }

    /// Takes the fields that directly follow `base`.
    fn fields(&mut self, base: Operand) -> Operand {
        let mut names = Vec::new();
        while let Some(Kind::Field { name, glued: true }) = self.peek() {
            names.push(name.clone());
            self.at += 1;
        }
        match base {
            base if names.is_empty() => base,
            Operand::Chain(inner, mut fields) => {
                fields.extend(names);
                Operand::Chain(inner, fields)
            }
            base => Operand::Chain(Box::new(base), names),
        }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let line = self.line();
        let kind = self.peek().cloned();
        self.at += 1;
        match kind {
            Some(Kind::Dot) => Ok(Operand::Dot),
            Some(Kind::Field { name, .. }) => Ok(Operand::Chain(Box::new(Operand::Dot), vec![name])),
            Some(Kind::Variable(name)) => {
                self.check_variable(&name)?;
                Ok(Operand::Variable(name))
            }
            Some(Kind::Str(text)) => Ok(Operand::Literal(Value::Str(text))),
            Some(Kind::Int(number)) => Ok(Operand::Literal(Value::Int(number))),
            Some(Kind::Float(number)) => Ok(Operand::Literal(Value::Float(number))),
            Some(Kind::Word(word)) => match word.as_str() {
                "true" | "false" => Ok(Operand::Literal(Value::Bool(word == "true"))),
                "nil" => Ok(Operand::Literal(Value::Nil)),
                name if functions::exists(name) => Ok(Operand::Function(word)),
                _ => Err(format!(":{line}: function \"{word}\" not defined")),
            },
            Some(Kind::LeftParen) => {
                let pipeline = self.pipeline(false)?;
                match self.peek() {
                    Some(Kind::RightParen) => self.at += 1,
                    _ => return Err(format!(":{line}: unclosed left paren")),
                }
                Ok(Operand::Parenthesis(Box::new(pipeline)))
            }
            Some(other) => Err(format!(":{line}: unexpected {} in operand", describe(&other))),
            None => Err(format!(":{line}: unexpected EOF")),
        }
    }
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Text(_) => "text".into(),
        Kind::Open => "\"{{\"".into(),
        Kind::Close => "\"}}\"".into(),
        Kind::Field { name, .. } => format!("<.{name}>"),
        Kind::Dot => "<.>".into(),
        Kind::Variable(name) => format!("<${name}>"),
        Kind::Word(word) => format!("<{word}>"),
        Kind::Str(text) => format!("{text:?}"),
        Kind::Int(n) => format!("\"{n}\""),
        Kind::Float(n) => format!("\"{n}\""),
        Kind::LeftParen => "\"(\"".into(),
        Kind::RightParen => "\")\"".into(),
        Kind::Pipe => "\"|\"".into(),
        Kind::Comma => "\",\"".into(),
        Kind::Declare => "\":=\"".into(),
        Kind::Assign => "\"=\"".into(),
    }
}
