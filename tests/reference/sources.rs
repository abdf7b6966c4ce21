//! Rust types with their comments as pages: a settings file's sections and keys, a manifest's kinds and fields.
use std::collections::BTreeMap;
use syn::{Attribute, Expr, Fields, Item, ItemStruct, Lit, Meta, Type};

struct Field {
    name: String,
    ty: Type,
    said: String,
    optional: bool,
}

struct Struct {
    said: String,
    fields: Vec<Field>,
}

fn comment(attributes: &[Attribute]) -> String {
    let line = |a: &Attribute| match &a.meta {
        Meta::NameValue(nv) if nv.path.is_ident("doc") => match &nv.value {
            Expr::Lit(l) => match &l.lit {
                Lit::Str(s) => Some(s.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    attributes.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

/// The text of every `serde` attribute.
fn serde(attributes: &[Attribute]) -> String {
    let list = |a: &Attribute| match &a.meta {
        Meta::List(l) if l.path.is_ident("serde") => Some(l.tokens.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(list).collect::<Vec<_>>().join(", ")
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |all, w| all + &w[..1].to_uppercase() + &w[1..])
}

fn structs(source: &str) -> BTreeMap<String, Struct> {
    let file = syn::parse_file(source).expect("a source file of this repository");
    let mut all = BTreeMap::new();
    for item in file.items {
        let Item::Struct(ItemStruct { ident, attrs, fields: Fields::Named(named), .. }) = item else { continue };
        let rename = serde(&attrs).contains("\"camelCase\"");
        let field = |f: syn::Field| {
            let name = f.ident.expect("named").to_string();
            let said = serde(&f.attrs);
            Field {
                name: if rename { camel(&name) } else { name },
                optional: said.contains("default"),
                ty: f.ty,
                said: comment(&f.attrs),
            }
        };
        all.insert(
            ident.to_string(),
            Struct { said: comment(&attrs), fields: named.named.into_iter().map(field).collect() },
        );
    }
    all
}

/// A type as a reader of TOML or YAML knows it, and the struct inside it.
fn word(ty: &Type) -> (String, Option<String>) {
    let Type::Path(path) = ty else { return ("value".into(), None) };
    let last = path.path.segments.last().expect("a path has an end");
    let inner = |n: usize| match &last.arguments {
        syn::PathArguments::AngleBracketed(a) => a
            .args
            .iter()
            .filter_map(|a| match a {
                syn::GenericArgument::Type(t) => Some(word(t)),
                _ => None,
            })
            .nth(n)
            .unwrap_or_default(),
        _ => Default::default(),
    };
    match last.ident.to_string().as_str() {
        "Option" => inner(0),
        "Vec" => (format!("list of {}", inner(0).0), inner(0).1),
        "BTreeMap" => (format!("map of {}", inner(1).0), inner(1).1),
        "String" | "PathBuf" => ("text".into(), None),
        "OneOrMany" => ("text or list of text".into(), None),
        "bool" => ("true or false".into(), None),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => ("number".into(), None),
        "IpAddr" => ("address".into(), None),
        "Name" => ("name".into(), None),
        "Digest" => ("sha256:HEX".into(), None),
        "OffsetDateTime" => ("time: 2026-11-24T16:00:00Z".into(), None),
        "Millicores" => ("CPU: 0.5, \"500m\"".into(), None),
        "Bytes" => ("size: 256Mi, 256MB".into(), None),
        "Value" => ("value".into(), None),
        other => (other.to_owned(), Some(other.to_owned())),
    }
}

/// Sections and keys of a settings file whose types begin with `prefix`.
pub fn settings(source: &str, prefix: &str, env: &str) -> String {
    let all = structs(source);
    let top = all.get(prefix).unwrap_or_else(|| panic!("there is no struct {prefix}"));
    let mut page = format!(
        "Each key can be set in the environment, which wins: `{env}SECTION__KEY`, or `{env}KEY` for a key without section.\n\n"
    );
    let table = "| key | type | what it is |\n|---|---|---|\n";
    let row = |f: &Field| format!("| `{}` | {} | {} |\n", f.name, word(&f.ty).0, f.said.replace('|', "\\|"));
    let section = |f: &Field| word(&f.ty).1.filter(|s| s.starts_with(prefix)).and_then(|s| all.get(&s));
    page += "## Without a section\n\n";
    page += table;
    top.fields.iter().filter(|f| section(f).is_none()).for_each(|f| page += &row(f));
    for (f, inner) in top.fields.iter().filter_map(|f| Some((f, section(f)?))) {
        page += &format!("\n## [{}]\n\n", f.name);
        if !f.said.is_empty() {
            page += &format!("{}\n\n", f.said);
        }
        page += table;
        inner.fields.iter().for_each(|f| page += &row(f));
    }
    page
}

/// The kinds of manifests, and every type that they are made of; what the manifests do not define is in `shared`.
pub fn kinds(manifests: &[String], shared: &str) -> String {
    let mut all = structs(shared);
    all.extend(manifests.iter().flat_map(|m| structs(m)));
    let mut page = String::from(
        "# Manifests\n\nYAML documents, `---` between them. Every one has `apiVersion: redforge.io/v1`, `kind`, \
         `metadata` and `spec`. A field that is not listed is refused with its path and line.\n\n\
         `metadata.name` is 1 to 63 of a-z, 0-9 and '-'. `metadata.labels` (Site and Instance) maps text to text.\n",
    );
    let kinds = [("Site", "SiteSpec"), ("FlowSet", "FlowSetSpec"), ("Instance", "InstanceSpec")];
    let mut seen: Vec<String> = Vec::new();
    for (kind, spec) in kinds {
        page += &format!("\n## {kind}\n\n");
        open(&all, spec, "spec", &mut page, &mut seen);
    }
    page + "\nExamples: [examples/](../../examples).\n"
}

fn open(all: &BTreeMap<String, Struct>, name: &str, at: &str, page: &mut String, seen: &mut Vec<String>) {
    let Some(this) = all.get(name) else { return };
    seen.push(name.to_owned());
    *page += &format!("{}\n\n| `{at}.` | type | | what it is |\n|---|---|---|---|\n", this.said);
    let mut below = Vec::new();
    for f in &this.fields {
        let (mut text, inner) = word(&f.ty);
        if let Some(inner) = inner {
            if all.contains_key(&inner) {
                text = text.replace(&inner, "section");
                below.push((inner, format!("{at}.{}", f.name)));
            } else {
                text = text.replace(&inner, "word");
            }
        }
        let need = if f.optional { "" } else { "needed" };
        *page += &format!("| `{}` | {text} | {need} | {} |\n", f.name, f.said.replace('|', "\\|"));
    }
    for (inner, at) in below {
        if !seen.contains(&inner) {
            *page += &format!("\n### {at}\n\n");
            open(all, &inner, &at, page, seen);
        }
    }
}
