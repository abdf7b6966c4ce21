//! The words that stand wherever the Ollama stand-in runs, so that nobody takes its vectors for a real model's.
//!
//! The stand-in is llama.cpp behind Ollama's API with tiny models of made weights, for machines that reach no registry of
//! images. It is known by its image and by its models' names, which no real one has. Pure; knows nothing of where it is
//! said.

/// How it is called, everywhere.
pub const NAME: &str = "Ollama stand-in";

const IMAGE: &str = "redforge.local/ollama-standin";
const MODELS: &str = "redforge-standin-";

/// Is this a reference of the stand-in's image?
pub fn is_image(reference: &str) -> bool {
    reference.strip_prefix(IMAGE).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
}

/// Is this the name of one of its models?
pub fn is_model(name: &str) -> bool {
    name.starts_with(MODELS)
}

/// An instance's kind, for people.
pub fn kind(kind: &str, image: &str) -> String {
    if is_image(image) { format!("{kind} ({NAME})") } else { kind.into() }
}

/// A model's name, for people.
pub fn model(name: &str) -> String {
    if is_model(name) { format!("{name} ({NAME})") } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_is_named_and_a_real_one_is_not() {
        assert_eq!(kind("ollama", "redforge.local/ollama-standin:1"), "ollama (Ollama stand-in)");
        assert_eq!(model("redforge-standin-embed"), "redforge-standin-embed (Ollama stand-in)");
        for real in ["ollama/ollama:0.32.15", "redforge.local/ollama-standings:1", "redforge.local/ollama:1", ""] {
            assert_eq!(kind("ollama", real), "ollama", "{real}");
        }
        assert_eq!(model("nomic-embed-text"), "nomic-embed-text");
    }
}
