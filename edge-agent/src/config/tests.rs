//! Settings as people write them, and how each wrong one is refused.
use super::*;

fn env(vars: &[(&str, &str)]) -> Environment {
    let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Environment { vars, root: false }
}

fn load(text: &str, vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("edge.toml");
    std::fs::write(&path, text).expect("written");
    let flags = Flags { config: Some(path), ..Flags::default() };
    let mut vars = vars.to_vec();
    vars.push(("HOME", "/home/someone"));
    Config::load(&flags, &env(&vars))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let c = load("", &[("XDG_RUNTIME_DIR", "/run/user/1000")]).expect("valid");
    assert_eq!(c.state_dir, Path::new("/home/someone/.local/state/redforge-edge"));
    assert_eq!(c.run_dir, Path::new("/run/user/1000/redforge-edge"));
    assert_eq!(c.runtime.pool, "10.231.64.0/18");
    assert_eq!(c.page_listen, Some("127.0.0.1:7460".parse().expect("an address")));
    let off = load("[page]\nlisten = \"off\"\n", &[]).expect("valid");
    assert_eq!(off.page_listen, None);
}

#[test]
fn what_is_shown_can_be_written_and_comes_to_the_same() {
    let full =
        "hub_url = [\"https://a:1\", \"https://b:2\"]\n[page]\nlisten = \"off\"\n[runtime]\nsubnet = \"10.9.0.0/24\"\n";
    for text in ["", full] {
        let config = load(text, &[]).expect("valid");
        let shown = config.as_toml();
        assert_eq!(load(&shown, &[]).unwrap_or_else(|e| panic!("{e}: {shown}")), config, "{shown}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "[outbox]\nmax_bytes = 2000000\n[runtime]\npool = \"10.1.0.0/16\"\n";
    let c = load(text, &[("REDFORGE_EDGE__OUTBOX__MAX_BYTES", "3000000")]).expect("valid");
    assert_eq!((c.outbox.max_bytes, c.runtime.pool.as_str()), (3_000_000, "10.1.0.0/16"));
}

#[test]
fn every_refusal_names_the_setting() {
    let long = format!("[state]\nrun_dir = \"/{}\"\n", "x".repeat(120));
    let cases = [
        ("hub_ulr = \"https://h:1\"", "hub_ulr"),
        ("hub_url = \"http://h:1\"", "hub_url"),
        ("[runtime]\npool = \"10.1.2.3/16\"", "runtime.pool"),
        ("[runtime]\nsubnet = \"10.1.2.0/40\"", "runtime.subnet"),
        ("[runtime]\nstart_deadline_s = 1", "runtime.start_deadline_s"),
        ("[runtime]\npull_deadline_s = 9", "runtime.pull_deadline_s"),
        ("[runtime]\ncreate_deadline_s = 0", "runtime.create_deadline_s"),
        ("[runtime]\ndeploy_deadline_s = 4", "runtime.deploy_deadline_s"),
        ("[page]\nlisten = \"0.0.0.0:80\"", "page.listen"),
        ("port_base = 0", "port_base"),
        ("[outbox]\nmax_bytes = 5", "outbox.max_bytes"),
        ("[gateway]\nport = 0", "gateway.port"),
        ("[clean_up]\nmin_age_s = 31536001", "clean_up.min_age_s"),
        ("[clean_up]\nvolume_min_age_s = 315360001", "clean_up.volume_min_age_s"),
        ("[clean_up]\nkeep_volumes = 7", "expected a boolean"),
        ("[registry.docker]\nmirrors = []", "'docker' is not a registry"),
        ("[registry.\"docker.io\"]\nmirrors = [\"https://m.example\"]", "'https://m.example' is not HOST"),
        ("[registry.\"docker.io\"]\nmirrors = [\"m.example/../x y\"]", "is not HOST[:PORT]"),
        ("[registry.\"r.example:0\"]\nmirrors = []", "'r.example:0' is not a registry"),
        ("[registry.\"r.example\"]\nusername = \"a\"", "password_file or password_secret is missing"),
        ("[registry.\"r.example\"]\npassword_file = \"/p\"", "username is missing"),
        ("[registry.\"r.example\"]\nusername = \"a\"\npassword_file = \"p\"", "p is not absolute"),
        (
            "[registry.\"r.example\"]\nusername = \"a\"\npassword_file = \"/p\"\npassword_secret = \"s\"",
            "two passwords",
        ),
        ("[registry.\"r.example\"]\npassword = \"in the clear\"", "unknown field"),
        ("[site]\nmax_hold_s = 2592001", "site.max_hold_s"),
        ("[state]\ndir = \"relative\"", "state.dir"),
        (long.as_str(), "state.run_dir"),
    ];
    for (text, name) in cases {
        let error = load(text, &[]).expect_err(text).to_string();
        assert!(error.contains(name), "{text}: {error}");
    }
}

#[test]
fn a_file_of_conf_d_adds_to_the_main_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("edge.toml");
    std::fs::write(&path, "[outbox]\nmax_bytes = 2000000\nhub_rpo_s = 5\n").expect("written");
    std::fs::create_dir(dir.path().join("conf.d")).expect("made");
    std::fs::write(dir.path().join("conf.d/edge-10.toml"), "[outbox]\nhub_rpo_s = 7\n").expect("written");
    std::fs::write(dir.path().join("conf.d/hub-10.toml"), "[agents]\nlisten = \"\"\n").expect("written");
    let flags = Flags { config: Some(path), ..Flags::default() };
    let c = Config::load(&flags, &env(&[("HOME", "/h")])).expect("valid");
    assert_eq!((c.outbox.max_bytes, c.outbox.hub_rpo_s), (2_000_000, 7));
}
