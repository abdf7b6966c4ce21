//! What an operator, or somebody who took over an operator, may try in a manifest: each of it is refused at the hub's door
//! by the path of what is wrong, and leaves nothing behind.
//!
//! A case is the path that must be named and the lines below `spec`. Sixteen classes, twelve cases or more in each.
use redforge_tests::{ctl::Ctl, hub::TestHub};

type Case = (&'static str, &'static str);

const SOCKET: &[Case] = &[
    ("spec.volumes[0].path", "volumes: [{name: s, path: /var/run/docker.sock}]"),
    ("spec.volumes[0].path", "volumes: [{name: s, path: /run/docker.sock}]"),
    ("spec.volumes[0].path", "volumes: [{name: s, path: /run/podman/podman.sock}]"),
    ("spec.volumes[0].path", "volumes: [{name: s, path: /run/containerd/containerd.sock}]"),
    ("spec.volumes[0].path", "volumes: [{name: s, path: /var/run/docker}]"),
    ("spec.volumes[0].path", "volumes: [{name: s, path: /tmp/docker.sock/x}]"),
    ("spec.volumes[0].source", "volumes: [{name: s, path: /x, source: /var/run/docker.sock}]"),
    ("spec.volumes[0]", "volumes: [\"/var/run/docker.sock:/var/run/docker.sock\"]"),
    ("spec.binds", "binds: [\"/var/run/docker.sock:/var/run/docker.sock\"]"),
    ("spec.mounts", "mounts: [{type: bind, source: /var/run/docker.sock, target: /s}]"),
    ("spec.dockerSocket", "dockerSocket: true"),
    ("spec.container.dockerSocket", "container: {dockerSocket: true}"),
    ("spec.resources.dockerSocket", "resources: {dockerSocket: /run/docker.sock}"),
];

const PRIVILEGED: &[Case] = &[
    ("spec.privileged", "privileged: true"),
    ("spec.privileged", "privileged: \"true\""),
    ("spec.privileged", "privileged: false"),
    ("spec.Privileged", "Privileged: true"),
    ("spec.container.privileged", "container: {privileged: true}"),
    ("spec.resources.privileged", "resources: {privileged: true}"),
    ("spec.securityContext", "securityContext: {privileged: true}"),
    ("spec.container.securityContext", "container: {securityContext: {privileged: true}}"),
    ("spec.hostConfig", "hostConfig: {Privileged: true}"),
    ("spec.ports[0].privileged", "ports: [{container: 1, host: 1, privileged: true}]"),
    ("spec.volumes[0].privileged", "volumes: [{name: a, path: /a, privileged: true}]"),
    ("spec.probe.privileged", "probe: {tcp: {port: 1}, privileged: true}"),
    ("spec.probe.tcp.privileged", "probe: {tcp: {port: 1, privileged: true}}"),
];

const CAPABILITIES: &[Case] = &[
    ("spec.capAdd", "capAdd: [SYS_ADMIN]"),
    ("spec.cap_add", "cap_add: [ALL]"),
    ("spec.capDrop", "capDrop: []"),
    ("spec.capabilities", "capabilities: [NET_ADMIN]"),
    ("spec.container.capAdd", "container: {capAdd: [SYS_PTRACE]}"),
    ("spec.container.cap_add", "container: {cap_add: [SYS_MODULE]}"),
    ("spec.container.capabilities", "container: {capabilities: {add: [ALL]}}"),
    ("spec.securityContext", "securityContext: {capabilities: {add: [SYS_ADMIN]}}"),
    ("spec.resources.capAdd", "resources: {capAdd: [SYS_RAWIO]}"),
    ("spec.hostConfig", "hostConfig: {CapAdd: [ALL]}"),
    ("spec.ambientCapabilities", "ambientCapabilities: [SYS_TIME]"),
    ("spec.allowPrivilegeEscalation", "allowPrivilegeEscalation: true"),
    ("spec.noNewPrivileges", "noNewPrivileges: false"),
];

const DEVICES: &[Case] = &[
    ("spec.devices", "devices: [\"/dev/mem:/dev/mem\"]"),
    ("spec.deviceRequests", "deviceRequests: [{count: -1}]"),
    ("spec.deviceCgroupRules", "deviceCgroupRules: [\"c 1:1 rwm\"]"),
    ("spec.gpus", "gpus: all"),
    ("spec.container.devices", "container: {devices: [/dev/sda]}"),
    ("spec.resources.devices", "resources: {devices: [/dev/kvm]}"),
    ("spec.resources.gpu", "resources: {gpu: 1}"),
    ("spec.hostConfig", "hostConfig: {Devices: [{PathOnHost: /dev/sda}]}"),
    ("spec.volumes[0].path", "volumes: [{name: d, path: /dev}]"),
    ("spec.volumes[0].path", "volumes: [{name: d, path: /dev/mem}]"),
    ("spec.volumes[0].path", "volumes: [{name: d, path: /dev/sda1}]"),
    ("spec.volumes[0].device", "volumes: [{name: d, path: /d, device: /dev/sda1}]"),
    ("spec.volumes[0].driverOpts", "volumes: [{name: d, path: /d, driverOpts: {type: none, o: bind, device: /}}]"),
];

const HOST_NET: &[Case] = &[
    ("spec.network", "network: host"),
    ("spec.networkMode", "networkMode: host"),
    ("spec.hostNetwork", "hostNetwork: true"),
    ("spec.net", "net: host"),
    ("spec.networks", "networks: [host]"),
    ("spec.container.network", "container: {network: host}"),
    ("spec.container.networkMode", "container: {networkMode: \"container:other\"}"),
    ("spec.egress", "egress: host"),
    ("spec.egress", "egress: {network: host}"),
    ("spec.extraHosts", "extraHosts: [\"hub.redforge.internal:10.0.0.1\"]"),
    ("spec.dns", "dns: [10.0.0.1]"),
    ("spec.macAddress", "macAddress: \"02:00:00:00:00:01\""),
    ("spec.publishAll", "publishAll: true"),
];

const HOST_PID: &[Case] = &[
    ("spec.pid", "pid: host"),
    ("spec.pidMode", "pidMode: host"),
    ("spec.hostPID", "hostPID: true"),
    ("spec.shareProcessNamespace", "shareProcessNamespace: true"),
    ("spec.container.pid", "container: {pid: host}"),
    ("spec.container.pidMode", "container: {pidMode: \"container:1\"}"),
    ("spec.hostConfig", "hostConfig: {PidMode: host}"),
    ("spec.resources.pids", "resources: {pids: host}"),
    ("spec.resources.pids", "resources: {pids: -1}"),
    ("spec.resources.pids", "resources: {pids: 0}"),
    ("spec.resources.pids", "resources: {pids: 99999999999}"),
    ("spec.volumes[0].path", "volumes: [{name: p, path: /proc}]"),
    ("spec.volumes[0].path", "volumes: [{name: p, path: /proc/1/root}]"),
];

const HOST_IPC: &[Case] = &[
    ("spec.ipc", "ipc: host"),
    ("spec.ipcMode", "ipcMode: host"),
    ("spec.hostIPC", "hostIPC: true"),
    ("spec.shmSize", "shmSize: 64G"),
    ("spec.container.ipc", "container: {ipc: host}"),
    ("spec.container.ipcMode", "container: {ipcMode: \"container:other\"}"),
    ("spec.uts", "uts: host"),
    ("spec.utsMode", "utsMode: host"),
    ("spec.cgroupns", "cgroupns: host"),
    ("spec.cgroupParent", "cgroupParent: /"),
    ("spec.hostConfig", "hostConfig: {IpcMode: host}"),
    ("spec.volumes[0].path", "volumes: [{name: i, path: /dev/shm}]"),
];

const BIND_PATHS: &[Case] = &[
    ("spec.volumes[0].path", "volumes: [{name: a, path: /}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: data}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: \"/etc:/host-etc\"}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: \"/a,type=bind,source=/\"}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /sys}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /sys/fs/cgroup}]"),
    ("spec.volumes[0].hostPath", "volumes: [{name: a, path: /a, hostPath: /etc}]"),
    ("spec.volumes[0].source", "volumes: [{name: a, path: /a, source: /}]"),
    ("spec.volumes[0].type", "volumes: [{name: a, path: /a, type: bind}]"),
    ("spec.volumes[0].propagation", "volumes: [{name: a, path: /a, propagation: rshared}]"),
    ("spec.volumes[0]", "volumes: [\"/etc:/etc\"]"),
    ("spec.volumesFrom", "volumesFrom: [other]"),
    ("spec.tmpfs", "tmpfs: {/tmp: exec}"),
];

const SYMLINKS: &[Case] = &[
    ("spec.volumes[0].path", "volumes: [{name: a, path: /a/../../etc}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /..}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /a/..}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /a/./b}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: //etc}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /a//b}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /data/}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: ..}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /proc/self/root}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /proc/1/cwd/etc}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: 'C:\\data'}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: '/a\\..\\b'}]"),
    ("spec.volumes[0].followSymlinks", "volumes: [{name: a, path: /a, followSymlinks: true}]"),
];

const SYSCTLS: &[Case] = &[
    ("spec.sysctls", "sysctls: {kernel.core_pattern: \"|/bin/sh\"}"),
    ("spec.sysctl", "sysctl: [net.ipv4.ip_forward=1]"),
    ("spec.container.sysctls", "container: {sysctls: {kernel.msgmax: \"1\"}}"),
    ("spec.resources.sysctls", "resources: {sysctls: {}}"),
    ("spec.ulimits", "ulimits: {nofile: 9999999}"),
    ("spec.resources.ulimits", "resources: {ulimits: [nofile]}"),
    ("spec.oomKillDisable", "oomKillDisable: true"),
    ("spec.oomScoreAdj", "oomScoreAdj: -1000"),
    ("spec.resources.swap", "resources: {swap: 10Gi}"),
    ("spec.resources.memorySwap", "resources: {memorySwap: -1}"),
    ("spec.resources.cpu", "resources: {cpu: -1}"),
    ("spec.resources.memory", "resources: {memory: -1}"),
    ("spec.hostConfig", "hostConfig: {Sysctls: {kernel.shmmax: \"1\"}}"),
];

const USER: &[Case] = &[
    ("spec.user", "user: root"),
    ("spec.user", "user: \"0:0\""),
    ("spec.container.user", "container: {user: root}"),
    ("spec.runAsUser", "runAsUser: 0"),
    ("spec.container.runAsUser", "container: {runAsUser: 0}"),
    ("spec.securityContext", "securityContext: {runAsUser: 0}"),
    ("spec.runAsNonRoot", "runAsNonRoot: false"),
    ("spec.group", "group: docker"),
    ("spec.groupAdd", "groupAdd: [docker]"),
    ("spec.userns", "userns: host"),
    ("spec.usernsMode", "usernsMode: host"),
    ("spec.hostConfig", "hostConfig: {GroupAdd: [\"0\"]}"),
    ("spec.resources.uid", "resources: {uid: 0}"),
];

const SECCOMP: &[Case] = &[
    ("spec.securityOpt", "securityOpt: [seccomp=unconfined]"),
    ("spec.security_opt", "security_opt: [apparmor=unconfined]"),
    ("spec.seccomp", "seccomp: unconfined"),
    ("spec.seccompProfile", "seccompProfile: {type: Unconfined}"),
    ("spec.apparmor", "apparmor: unconfined"),
    ("spec.appArmorProfile", "appArmorProfile: {type: Unconfined}"),
    ("spec.seLinuxOptions", "seLinuxOptions: {level: s0}"),
    ("spec.container.securityOpt", "container: {securityOpt: [no-new-privileges=false]}"),
    ("spec.container.seccomp", "container: {seccomp: unconfined}"),
    ("spec.maskedPaths", "maskedPaths: []"),
    ("spec.readonlyPaths", "readonlyPaths: []"),
    ("spec.runtime", "runtime: my-runc"),
    ("spec.readOnlyRoot", "readOnlyRoot: unconfined"),
];

const PORTS: &[Case] = &[
    ("spec.ports[0].container", "ports: [{container: 0, host: 80}]"),
    ("spec.ports[0].host", "ports: [{container: 80, host: 0}]"),
    ("spec.ports[0].host", "ports: [{container: 80, host: 65536}]"),
    ("spec.ports[0].host", "ports: [{container: 80, host: -1}]"),
    ("spec.ports[0].host", "ports: [{container: 80, host: \"80-90\"}]"),
    ("spec.ports[0].address", "ports: [{container: 80, host: 80, address: eth0}]"),
    ("spec.ports[0].address", "ports: [{container: 80, host: 80, address: 224.0.0.1}]"),
    ("spec.ports[0].address", "ports: [{container: 80, host: 80, address: 255.255.255.255}]"),
    ("spec.ports[0].protocol", "ports: [{container: 80, host: 80, protocol: sctp}]"),
    ("spec.ports[0].hostIp", "ports: [{container: 80, host: 80, hostIp: 0.0.0.0}]"),
    ("spec.ports[1].host", "ports: [{container: 80, host: 80}, {container: 81, host: 80}]"),
    ("spec.ports[1].host", "ports: [{container: 80, host: 80}, {container: 81, host: 80, address: 0.0.0.0}]"),
    ("spec.ports[0]", "ports: [\"0.0.0.0:80:80\"]"),
];

/// Names of the instance itself, and of others that it names.
const NAMES: &[Case] = &[
    ("metadata.name", "name: ../../etc"),
    ("metadata.name", "name: a/b"),
    ("metadata.name", "name: UPPER"),
    ("metadata.name", "name: \"a b\""),
    ("metadata.name", "name: \"\""),
    ("metadata.name", "name: -a"),
    ("metadata.name", "name: a-"),
    ("metadata.name", "name: a_b"),
    ("metadata.name", "name: a.b"),
    ("metadata.name", "name: \"a\\nb\""),
    ("metadata.name", "name: caf\u{e9}"),
    ("metadata.name", "name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ("metadata.namespace", "{name: a, namespace: kube-system}"),
];

const VOLUMES: &[Case] = &[
    ("spec.volumes[0].name", "volumes: [{name: .., path: /a}]"),
    ("spec.volumes[0].name", "volumes: [{name: a/b, path: /a}]"),
    ("spec.volumes[0].name", "volumes: [{name: UP, path: /a}]"),
    ("spec.volumes[0].name", "volumes: [{name: live, path: /a}]"),
    ("spec.volumes[0].name", "volumes: [{name: cfg, path: /a}]"),
    ("spec.volumes[0].name", "volumes: [{name: cfg-1, path: /a}]"),
    ("spec.volumes[1].name", "volumes: [{name: a, path: /a}, {name: a, path: /b}]"),
    ("spec.volumes[1].path", "volumes: [{name: a, path: /a}, {name: b, path: /a}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /redforge/config}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /redforge}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: /mosquitto/live}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: \"/a b\"}]"),
    ("spec.volumes[0].path", "volumes: [{name: a, path: \"/a\\0b\"}]"),
];

const ENV_AND_COMMAND: &[Case] = &[
    ("spec.env.A=B", "env: {\"A=B\": x}"),
    ("spec.env.A B", "env: {\"A B\": x}"),
    ("spec.env.1A", "env: {1A: x}"),
    ("spec.env.REDFORGE_MQTT_HOST", "env: {REDFORGE_MQTT_HOST: attacker}"),
    ("spec.env.A", "env: {A: \"x\\0y\"}"),
    ("spec.env.A", "env: {A: [x]}"),
    ("spec.env", "env: [\"A=x\"]"),
    ("spec.secretEnv.REDFORGE_KEY", "secretEnv: {REDFORGE_KEY: k}"),
    ("spec.secretEnv.A", "secretEnv: {A: ../ledger}"),
    ("spec.secretEnv.A", "env: {A: x}\n  secretEnv: {A: k}"),
    ("spec.container.command", "container: {command: \"sh -c reboot\"}"),
    ("spec.container.command[0]", "container: {command: [\"sh\\0-c\"]}"),
    ("spec.restartNonce", "restartNonce: \"a\\nb\""),
    ("spec.container.entrypoint", "container: {entrypoint: [/bin/sh]}"),
];

const IMAGES: &[Case] = &[
    ("spec.image", "-v"),
    ("spec.image", "--privileged"),
    ("spec.image", "a b"),
    ("spec.image", "a;reboot"),
    ("spec.image", "a$(reboot)"),
    ("spec.image", "../a"),
    ("spec.image", "a/../b"),
    ("spec.image", "/a"),
    ("spec.image", "a@sha256:12"),
    ("spec.image", "a@md5:d41d8cd98f00b204e9800998ecf8427e"),
    ("spec.image", "\"a\\nb\""),
    ("spec.image", "\"\""),
    ("spec.image", "a|b"),
];

const CLASSES: [(&str, &[Case]); 17] = [
    ("docker socket", SOCKET),
    ("privileged", PRIVILEGED),
    ("capabilities", CAPABILITIES),
    ("devices", DEVICES),
    ("host network", HOST_NET),
    ("host pid", HOST_PID),
    ("host ipc", HOST_IPC),
    ("bind paths", BIND_PATHS),
    ("symlinks", SYMLINKS),
    ("sysctls and limits", SYSCTLS),
    ("user", USER),
    ("seccomp and apparmor", SECCOMP),
    ("ports", PORTS),
    ("names", NAMES),
    ("volumes", VOLUMES),
    ("env and command", ENV_AND_COMMAND),
    ("images", IMAGES),
];

fn manifest(class: &str, lines: &str) -> String {
    let (metadata, image, more) = match class {
        "names" if lines.starts_with('{') => (format!("metadata: {lines}"), "a:1", ""),
        "names" => (format!("metadata:\n  {lines}"), "a:1", ""),
        "images" => ("metadata: {name: hostile}".to_owned(), lines, ""),
        _ => ("metadata: {name: hostile}".to_owned(), "a:1", lines),
    };
    format!(
        "apiVersion: redforge.io/v1\nkind: Instance\n{metadata}\nspec:\n  host: press-1\n  kind: container\n  image: {image}\n  {more}\n"
    )
}

#[tokio::test]
async fn every_hostile_manifest_is_refused_by_the_path_of_what_is_wrong() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let ctl = Ctl::new(&hub);
    let mut passed = Vec::new();
    for (class, cases) in CLASSES {
        assert!(cases.len() >= 12, "class {class} has {} cases", cases.len());
        for (path, lines) in cases {
            let refused = operator.try_apply(&manifest(class, lines)).await;
            let told = refused.map_or_else(|s| s.message().to_owned(), |_| "applied".to_owned());
            // The whole path: the problem follows it.
            if !told.contains(&format!(", {path}: ")) {
                passed.push(format!("{class}: `{lines}` should name {path}, and is {told}"));
            }
        }
    }
    assert!(passed.is_empty(), "{}", passed.join("\n"));
    // As a person sees it.
    let file = ctl.file("hostile.yaml", manifest("privileged", "privileged: true"));
    let said = ctl.run(&["apply", "-f", &file.display().to_string()]);
    let text = said.bad(1);
    assert!(text.contains("spec.privileged"), "{text}");
    let there = ctl.run(&["get", "instances", "-o", "json"]).json();
    assert!(!there.to_string().contains("hostile"), "{there}");
    // Negative control: without its hostile line the same manifest gets past every check of its form.
    let plain = operator.try_apply(&manifest("privileged", "suspend: true")).await;
    let told = plain.expect_err("the host is not there").message().to_owned();
    assert!(told.contains("press-1") && !told.contains("unknown field"), "{told}");
}
