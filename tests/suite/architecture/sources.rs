//! Finds the repository's files and turns Rust sources into the few facts that rules ask for.
//!
//! Knows no rule. Code under `#[cfg(test)]` is left out: tests may reach where the room itself may not.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use syn::{spanned::Spanned, visit::Visit};

/// One file, its path relative to the repository.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: String,
    pub text: String,
}

/// What a Rust file says, each fact with its line.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Paths that are imported, called, named as a type or written inside a macro, from the crate's own name or an
    /// external crate's on: `redforge_hub::store::hosts`.
    pub paths: Vec<(usize, String)>,
    pub strings: Vec<(usize, String)>,
    /// Lines of `async` blocks, functions and `.await`.
    pub asynchronous: Vec<usize>,
    /// Names of macros that are called, without their path.
    pub macros: Vec<(usize, String)>,
    /// Last segment of struct literals and of called associated functions (`Released::new` gives `Released`).
    pub made: Vec<(usize, String)>,
    /// Lines that import the own crate's root, by a star or under a name: any room could be named through it.
    pub root_imports: Vec<usize>,
    /// What is imported to be handed on (`pub use`), as in `paths`.
    pub handed_on: Vec<(usize, String)>,
}

/// The repository's root: the parent of this package.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_path_buf()
}

/// Every text file of the repository that a person wrote.
pub fn of_repository() -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            if path.is_symlink()
                || matches!(name.as_str(), "target" | ".git" | "node_modules" | "Cargo.lock" | "static")
            {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).expect("found below the root").to_string_lossy().into_owned();
                files.push(Source { path, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Does the file belong to the room (`hub/src/store` = store.rs and everything in store/)?
pub fn in_room(path: &str, room: &str) -> bool {
    path.strip_prefix(room).is_some_and(|rest| rest == ".rs" || rest.starts_with('/') || rest.is_empty())
}

/// Is it a room's own test module, kept in a file of its own?
pub fn is_test_file(path: &str) -> bool {
    module_of(path).is_some_and(|(_, modules)| modules.iter().any(|m| m == "tests"))
}

/// Crate name and module path of a source file; `None` outside the packages' `src` folders.
pub fn module_of(path: &str) -> Option<(&'static str, Vec<String>)> {
    let crates = [
        ("hub/ctl/src/", "redforgectl"),
        ("hub/src/", "redforge_hub"),
        ("edge-agent/src/", "redforge_edge"),
        ("shared/src/", "redforge_shared"),
        ("tests/src/", "redforge_tests"),
    ];
    let (rest, name) = crates.iter().find_map(|(dir, name)| path.strip_prefix(dir).map(|r| (r, *name)))?;
    let rest = rest.strip_suffix(".rs")?;
    let modules = rest.split('/').map(str::to_owned).filter(|m| m != "lib" && m != "main").collect();
    Some((name, modules))
}

/// Reads one Rust file.
pub fn parse(source: &Source) -> syn::Result<Parsed> {
    let file = syn::parse_file(&source.text)?;
    let (name, modules) = module_of(&source.path).unwrap_or(("", Vec::new()));
    let mut reader = Reader { name, modules, out: Parsed::default() };
    reader.visit_file(&file);
    Ok(reader.out)
}

struct Reader {
    name: &'static str,
    modules: Vec<String>,
    out: Parsed,
}

impl Reader {
    /// The path from a crate's name on; relative paths (a local name, a child module) stay as they are.
    fn absolute(&self, segments: &[String]) -> String {
        let mut base: Vec<String> = Vec::new();
        let mut rest = segments;
        match segments.first().map(String::as_str) {
            Some("crate") => {
                base.push(self.name.into());
                rest = &segments[1..];
            }
            Some("self" | "super") => {
                base.push(self.name.into());
                base.extend(self.modules.iter().cloned());
                while let Some(first) = rest.first() {
                    match first.as_str() {
                        "super" if base.len() > 1 => drop(base.pop()),
                        "self" | "super" => {}
                        _ => break,
                    }
                    rest = &rest[1..];
                }
            }
            _ => {}
        }
        base.extend(rest.iter().cloned());
        base.join("::")
    }

    fn path(&mut self, line: usize, segments: &[String]) {
        let path = self.absolute(segments);
        self.out.paths.push((line, path));
    }

    /// Notes an import of everything at a place, or of the place under a name, where the place is the crate's root.
    fn note_root(&mut self, line: usize, segments: &[String]) {
        if !self.name.is_empty() && self.absolute(segments) == self.name {
            self.out.root_imports.push(line);
        }
    }

    fn tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(p) => self.tree(&with(&p.ident), &p.tree),
            syn::UseTree::Name(n) if n.ident == "self" => {
                self.note_root(n.span().start().line, prefix);
                self.path(n.span().start().line, prefix);
            }
            syn::UseTree::Name(n) => self.path(n.span().start().line, &with(&n.ident)),
            syn::UseTree::Rename(r) => {
                let path = with(&r.ident);
                self.note_root(r.span().start().line, if r.ident == "self" { prefix } else { &path });
                self.path(r.span().start().line, &path);
            }
            syn::UseTree::Glob(g) => {
                self.note_root(g.span().start().line, prefix);
                self.path(g.span().start().line, prefix);
            }
            syn::UseTree::Group(g) => g.items.iter().for_each(|t| self.tree(prefix, t)),
        }
    }

    /// Macros are tokens: their paths, strings and `await`s are found by shape.
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        use proc_macro2::TokenTree;
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(g) => self.tokens(g.stream()),
                TokenTree::Literal(l) => {
                    if let Ok(s) = syn::parse_str::<syn::LitStr>(&l.to_string()) {
                        self.out.strings.push((l.span().start().line, s.value()));
                    }
                }
                TokenTree::Ident(i) => {
                    let line = i.span().start().line;
                    if i == "async" || i == "await" {
                        self.out.asynchronous.push(line);
                    }
                    let mut segments = vec![i.to_string()];
                    while let (Some(TokenTree::Punct(a)), Some(TokenTree::Punct(b)), Some(TokenTree::Ident(next))) =
                        (tokens.get(at + 1), tokens.get(at + 2), tokens.get(at + 3))
                    {
                        if a.as_char() != ':' || b.as_char() != ':' {
                            break;
                        }
                        segments.push(next.to_string());
                        at += 3;
                    }
                    if segments.len() > 1 {
                        self.path(line, &segments);
                    }
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("test")
            || a.path().is_ident("cfg") && a.parse_args::<syn::Ident>().is_ok_and(|what| what == "test")
    })
}

fn segments_of(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|s| s.ident.to_string()).collect()
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if is_test_only(&module.attrs) {
            return;
        }
        self.modules.push(module.ident.to_string());
        syn::visit::visit_item_mod(self, module);
        self.modules.pop();
    }
    fn visit_item_fn(&mut self, f: &'ast syn::ItemFn) {
        if is_test_only(&f.attrs) {
            return;
        }
        syn::visit::visit_item_fn(self, f);
    }
    fn visit_item_impl(&mut self, i: &'ast syn::ItemImpl) {
        if !is_test_only(&i.attrs) {
            syn::visit::visit_item_impl(self, i);
        }
    }
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        // Attributes name macros and lints, not rooms; a derive's path would be noise.
        if attribute.path().is_ident("doc") {
            return;
        }
        if let syn::Meta::List(list) = &attribute.meta
            && !["expect", "allow", "warn", "deny", "cfg", "cfg_attr"].iter().any(|n| list.path.is_ident(n))
        {
            self.tokens(list.tokens.clone());
        }
    }
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test_only(&item.attrs) {
            return;
        }
        let before = self.out.paths.len();
        self.tree(&[], &item.tree);
        if !matches!(item.vis, syn::Visibility::Inherited) {
            self.out.handed_on.extend_from_slice(&self.out.paths[before..]);
        }
    }
    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if !is_test_only(&item.attrs) {
            let (line, name) = (item.span().start().line, item.ident.to_string());
            self.note_root(line, &[if name == "self" { "crate".into() } else { name.clone() }]);
            self.path(line, &[name]);
        }
    }
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = segments_of(path);
        if segments.len() > 1 {
            self.path(path.span().start().line, &segments);
        }
        syn::visit::visit_path(self, path);
    }
    fn visit_macro(&mut self, m: &'ast syn::Macro) {
        let line = m.path.span().start().line;
        let segments = segments_of(&m.path);
        if segments.len() > 1 {
            self.path(line, &segments);
        }
        if let Some(last) = segments.last() {
            self.out.macros.push((line, last.clone()));
        }
        self.tokens(m.tokens.clone());
    }
    fn visit_lit_str(&mut self, s: &'ast syn::LitStr) {
        self.out.strings.push((s.span().start().line, s.value()));
    }
    fn visit_expr_async(&mut self, e: &'ast syn::ExprAsync) {
        self.out.asynchronous.push(e.span().start().line);
        syn::visit::visit_expr_async(self, e);
    }
    fn visit_expr_await(&mut self, e: &'ast syn::ExprAwait) {
        self.out.asynchronous.push(e.span().start().line);
        syn::visit::visit_expr_await(self, e);
    }
    fn visit_signature(&mut self, s: &'ast syn::Signature) {
        if s.asyncness.is_some() {
            self.out.asynchronous.push(s.span().start().line);
        }
        syn::visit::visit_signature(self, s);
    }
    fn visit_expr_struct(&mut self, e: &'ast syn::ExprStruct) {
        if let Some(last) = segments_of(&e.path).last() {
            self.out.made.push((e.span().start().line, last.clone()));
        }
        syn::visit::visit_expr_struct(self, e);
    }
    fn visit_expr_call(&mut self, e: &'ast syn::ExprCall) {
        if let syn::Expr::Path(p) = e.func.as_ref() {
            let segments = segments_of(&p.path);
            // A tuple struct's constructor or an associated function of the type.
            for name in segments.iter().rev().take(2) {
                self.out.made.push((e.span().start().line, name.clone()));
            }
        }
        syn::visit::visit_expr_call(self, e);
    }
}

/// Names of external crates that the workspace lists, as Rust writes them.
pub fn external_crates() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let listed = manifest
        .lines()
        .skip_while(|l| *l != "[workspace.dependencies]")
        .skip(1)
        .take_while(|l| !l.starts_with('['))
        .filter_map(|l| l.split_once(" = "))
        .map(|(name, _)| name.trim().replace('-', "_"));
    listed.filter(|n| !n.starts_with('#')).collect()
}
