//! As much JSON as results need: read into a tree, ask by name.

/// A value; numbers that are null stay away.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    pub fn get(&self, name: &str) -> &Value {
        match self {
            Value::Object(fields) => fields.iter().find(|(n, _)| n == name).map_or(&Value::Null, |(_, value)| value),
            _ => &Value::Null,
        }
    }

    pub fn list(&self) -> &[Value] {
        match self {
            Value::List(list) => list,
            _ => &[],
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Value::Text(text) => text,
            _ => "",
        }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// None: it is not JSON, or nested too deep.
pub fn parse(text: &str) -> Option<Value> {
    let mut rest = text;
    let value = value(&mut rest, 0)?;
    rest.trim().is_empty().then_some(value)
}

fn eat(rest: &mut &str, text: &str) -> bool {
    *rest = rest.trim_start();
    match rest.strip_prefix(text) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

fn value(rest: &mut &str, depth: u32) -> Option<Value> {
    if depth > 16 {
        return None;
    }
    if eat(rest, "{") {
        let mut fields = Vec::new();
        while !eat(rest, "}") {
            if !fields.is_empty() && !eat(rest, ",") {
                return None;
            }
            let name = eat(rest, "\"").then(|| text(rest))??;
            if !eat(rest, ":") {
                return None;
            }
            fields.push((name, value(rest, depth + 1)?));
        }
        return Some(Value::Object(fields));
    }
    if eat(rest, "[") {
        let mut list = Vec::new();
        while !eat(rest, "]") {
            if !list.is_empty() && !eat(rest, ",") {
                return None;
            }
            list.push(value(rest, depth + 1)?);
        }
        return Some(Value::List(list));
    }
    if eat(rest, "\"") {
        return text(rest).map(Value::Text);
    }
    for (word, value) in [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))] {
        if eat(rest, word) {
            return Some(value);
        }
    }
    let length = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
    let (number, after) = rest.split_at(length);
    *rest = after;
    number.parse().ok().map(Value::Number)
}

/// After the opening quote. Of escapes, those that results have.
fn text(rest: &mut &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Some(out);
            }
            '\\' => match chars.next()?.1 {
                c @ ('"' | '\\' | '/') => out.push(c),
                'n' => out.push('\n'),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_read_and_rubbish_is_not() {
        let tree = parse(r#" {"a": [1, -2.5e1, null], "b\"c": {"d": true}, "e": ""} "#).unwrap();
        assert_eq!(tree.get("a").list()[1].number(), Some(-25.0));
        assert_eq!(tree.get("a").list()[2].number(), None);
        assert_eq!(tree.get("b\"c").get("d"), &Value::Bool(true));
        assert_eq!(tree.get("none"), &Value::Null);
        for rubbish in ["", "{", "[1 2]", "{\"a\"}", "\"open", "{} x", &"[".repeat(100)] {
            assert_eq!(parse(rubbish), None, "{rubbish}");
        }
    }
}
