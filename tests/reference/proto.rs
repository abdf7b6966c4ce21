//! Proto files as a page: services with their calls, messages with their fields, each with the comment above it.

/// One file.
pub fn page(name: &str, text: &str) -> String {
    let mut page = format!("## {name}.proto\n\n");
    let mut comment: Vec<&str> = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut table_open = false;
    for line in text.lines() {
        let line = line.trim();
        if let Some(c) = line.strip_prefix("//") {
            comment.push(c.trim());
            continue;
        }
        let said = std::mem::take(&mut comment).join(" ");
        let mut words = line.split_whitespace();
        match words.next().unwrap_or_default() {
            what @ ("service" | "message" | "enum") => {
                path.push(words.next().unwrap_or_default());
                page += &format!("### {what} {}\n\n", path.join("."));
                if !said.is_empty() {
                    page += &format!("{said}\n\n");
                }
                table_open = false;
                if line.ends_with('}') {
                    path.pop();
                }
            }
            "oneof" => path.push(words.next().unwrap_or_default()),
            "}" => drop(path.pop()),
            "rpc" => {
                let call = line.trim_start_matches("rpc ").trim_end_matches(';').replace(") returns (", ") → (");
                page += &row(&mut table_open, "call", &call, &said);
            }
            _ if !path.is_empty() && line.contains('=') => {
                let (field, number) = line.trim_end_matches(';').rsplit_once('=').unwrap_or((line, ""));
                page += &row(&mut table_open, "field", &format!("{} = {}", field.trim(), number.trim()), &said);
            }
            _ => {}
        }
    }
    page + "\n"
}

fn row(open: &mut bool, head: &str, what: &str, said: &str) -> String {
    let said = said.replace('|', "\\|");
    let row = format!("| `{what}` | {said} |\n");
    if std::mem::replace(open, true) { row } else { format!("\n| {head} | |\n|---|---|\n{row}") }
}
