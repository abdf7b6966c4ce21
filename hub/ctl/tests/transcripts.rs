//! The command line as people see it, without a hub: help, usage, bad manifests, nobody there. Exit codes included.
use std::{path::Path, process::Command};

/// Runs redforgectl in `dir` with nothing in its environment, and writes down what it said.
fn transcript(dir: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_redforgectl"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("XDG_CONFIG_HOME", dir)
        .output()
        .expect("redforgectl runs");
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).expect("text").trim_end().to_owned();
    let mut said = format!("$ redforgectl {}\n", args.join(" "));
    for part in [text(&out.stdout), text(&out.stderr)] {
        if !part.is_empty() {
            said += &format!("{part}\n");
        }
    }
    said + &format!("[exit {}]\n", out.status.code().expect("it ended by itself"))
}

#[test]
fn help_tells_verbs_settings_and_exit_codes() {
    let dir = tempfile::tempdir().expect("a folder");
    let all = [
        &["--help"][..],
        &["apply", "--help"],
        &["flowset", "push", "--help"],
        &["flowset", "pull", "--help"],
        &["flowset", "diff", "--help"],
        &["get", "--help"],
        &["search", "--help"],
        &["streams", "--help"],
        &["token", "create", "--help"],
    ];
    insta::assert_snapshot!(all.map(|a| transcript(dir.path(), a)).join("\n"));
}

#[test]
fn errors_say_what_why_and_what_next() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
    write(
        "bad.yaml",
        "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: Hall\n---\n\
         apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: yard\nspec:\n  polcy: open\n",
    );
    write("site.yaml", "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: hall\n");
    write("flows.json", "{\"flows\": []}");
    write("token", "t0ken\n");
    write("root.pem", "no certificate");
    let pin = format!("sha256:{}", "ab".repeat(32));
    // Nobody listens on port 1.
    let hub = ["--hub", "https://127.0.0.1:1", "--token-file", "token", "--ca-pin", &pin];
    let with_hub = |args: &[&str]| transcript(dir.path(), &[args, &hub[..]].concat()).replace(&pin, "PIN");
    let said = [
        transcript(dir.path(), &["get", "hosts"]),
        transcript(dir.path(), &["get", "hosts", "--token", "t"]),
        transcript(dir.path(), &["get", "hosts", "--token", "t", "--ca-file", "root.pem"]),
        transcript(dir.path(), &["get", "hosts", "--token", "t", "--ca-pin", "abc"]),
        transcript(dir.path(), &["get", "hosts", "--hub", "127.0.0.1:3000"]),
        transcript(dir.path(), &["get", "gadgets"]),
        transcript(dir.path(), &["apply", "-f", "bad.yaml"]),
        transcript(dir.path(), &["apply", "-f", "nowhere.yaml"]),
        transcript(dir.path(), &["flowset", "push", "intake", "flows.json"]),
        transcript(dir.path(), &["flowset", "diff"]),
        transcript(dir.path(), &["flowset", "diff", "intake", "-f", "flows.json"]),
        transcript(dir.path(), &["flowset", "diff", "-f", "flows.json"]),
        transcript(dir.path(), &["flowset", "pull", "intake", "--revision", "0"]),
        transcript(dir.path(), &["flowset", "pull", "intake", "--revision", "1", "--draft"]),
        transcript(dir.path(), &["token", "create", "--site", "hall", "--ttl", "1y"]),
        with_hub(&["token", "create", "--site", "hall", "--ttl", "40d"]),
        with_hub(&["get", "instances", "flows"]),
        with_hub(&["get", "instances"]),
        with_hub(&["apply", "-f", "site.yaml"]),
        transcript(dir.path(), &["search"]),
        transcript(dir.path(), &["version"]),
    ];
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_configuration_file_is_checked_and_must_be_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("redforge")).expect("a folder");
    let path = dir.path().join("redforge/config.toml");
    let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).expect("a mode");
    let shown = |said: String| said.replace(&dir.path().display().to_string(), "DIR");
    std::fs::write(&path, "hub = 'https://127.0.0.1:1'\ntokn = 'x'\n").expect("a file");
    mode(0o600);
    let unknown = shown(transcript(dir.path(), &["get", "hosts"]));
    let pin = format!("sha256:{}", "ab".repeat(32));
    std::fs::write(&path, format!("hub = 'https://127.0.0.1:1'\ntoken = 'x'\nca_pin = '{pin}'\n")).expect("a file");
    mode(0o644);
    let open = shown(transcript(dir.path(), &["get", "hosts"]));
    mode(0o600);
    let private = shown(transcript(dir.path(), &["get", "hosts"]));
    insta::assert_snapshot!([unknown, open, private].join("\n"));
}

#[test]
fn a_flag_wins_over_the_environment_also_where_they_say_it_differently() {
    let dir = tempfile::tempdir().expect("a folder");
    let pin = format!("sha256:{}", "ab".repeat(32));
    let said = |args: &[&str], env: (&str, &str)| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_redforgectl"));
        c.args(args).args(["--hub", "https://127.0.0.1:1"]).current_dir(dir.path()).env_clear().env(env.0, env.1);
        let out = c.output().expect("redforgectl runs");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) =
        said(&["get", "hosts", "--token", "t", "--ca-pin", &pin], ("REDFORGE_CA_FILE", "/nowhere/root.pem"));
    assert!(code == Some(8) && text.contains("cannot be reached"), "{code:?} {text}");
    let (code, text) =
        said(&["get", "hosts", "--token-file", "/nowhere/token", "--ca-pin", &pin], ("REDFORGE_TOKEN", "t"));
    assert!(code == Some(1) && text.contains("/nowhere/token cannot be read"), "{code:?} {text}");
    // What the environment says is no part of the usage.
    let (code, text) = said(&["apply"], ("REDFORGE_TOKEN_FILE", "/nowhere/token"));
    assert!(code == Some(2) && !text.contains("--token-file"), "{code:?} {text}");
}

#[test]
fn completion_and_the_manual_pages_are_written() {
    let dir = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(transcript(dir.path(), &["completion", shell]).contains("flowset"), "{shell}");
    }
    assert!(transcript(dir.path(), &["man"]).contains(".TH redforgectl 1"));
    transcript(dir.path(), &["man", "--dir", "pages"]);
    // Every verb that the help lists has a page, and so has every verb below it.
    let verbs = |args: &[&str]| -> Vec<String> {
        let help = transcript(dir.path(), &[args, &["--help"]].concat());
        let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default().lines().take_while(|l| l.starts_with("  "));
        let names = listed.filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).filter(|n| !n.is_empty());
        names.filter(|n| *n != "help").map(str::to_owned).collect()
    };
    let mut seen = 0;
    for verb in verbs(&[]) {
        let below = verbs(&[&verb]).into_iter().map(|b| format!("{verb}-{b}"));
        for page in below.chain([verb.clone()]) {
            let path = dir.path().join(format!("pages/redforgectl-{page}.1"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(text.contains(&format!("redforgectl\\-{}", page.replace('-', "\\-"))), "{page}: {text}");
            assert!(text.contains("redforgectl(1)") || text.contains("Exit codes"), "{page}: {text}");
            seen += 1;
        }
    }
    assert!(seen >= 16, "only {seen} verbs were found");
}
