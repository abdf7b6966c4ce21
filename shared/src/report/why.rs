//! What explains a reason, for people: the one text that lists, pages and the status at the machine put behind the word.
use super::Reason;

/// The names and the engine's words as a text; empty where the reason says it all.
pub fn explained(reason: Option<Reason>, names: &[String], detail: Option<&str>) -> String {
    match (reason, names, detail) {
        (Some(Reason::PortTaken), [port], _) => format!("port {port} is held by another program"),
        (Some(Reason::PortTaken), [port, holder], _) => format!("port {port} is held by instance {holder}"),
        (Some(Reason::StartRefused), [], Some(words)) => words.to_owned(),
        (Some(Reason::StartRefused), names, Some(words)) => format!("{}: {words}", names.join(", ")),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_with_who_has_it_and_a_refusal_with_the_engines_words() {
        let told = |reason, names: &[&str], detail| {
            explained(Some(reason), &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), detail)
        };
        insta::assert_snapshot!(
            [
                told(Reason::PortTaken, &[], None),
                told(Reason::PortTaken, &["8080/tcp"], None),
                told(Reason::PortTaken, &["8080/udp", "web"], None),
                told(Reason::StartRefused, &[], Some("exec: \"no\": not found")),
                told(Reason::StartRefused, &["web:2"], Some("exec: \"no\": not found")),
                told(Reason::StartRefused, &["10.1.0.0/24"], None),
                told(Reason::MissingTypes, &["a", "b"], Some("not said")),
            ]
            .join("\n")
        , @r#"

        port 8080/tcp is held by another program
        port 8080/udp is held by instance web
        exec: "no": not found
        web:2: exec: "no": not found
        10.1.0.0/24
        a, b
        "#);
    }
}
