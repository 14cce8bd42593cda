//! Links on the default bridge.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use serde_json::json;
use testkit::daemon::{Daemon, Options};

#[test]
fn a_linked_container_knows_the_other() {
    if !testkit::is_root() {
        return;
    }
    let mut daemon = Daemon::start(Options::default());
    daemon.load_busybox(BUSYBOX);
    let docker = |args: &[&str]| daemon.docker(args);
    docker(&[
        "run", "-d", "--name", "db", "-h", "dbhost", "--expose", "6379", "-e", "FOO=1", BUSYBOX, "sleep",
        "1000",
    ])
    .success();
    let said = docker(&["run", "--rm", "--link", "db:my-sql", "--name", "once", BUSYBOX, "env"]).success();
    let address = docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).success();
    for line in [
        format!("MY_SQL_PORT=tcp://{address}:6379"),
        format!("MY_SQL_PORT_6379_TCP_ADDR={address}"),
        "MY_SQL_NAME=/once/my-sql".to_string(),
        "MY_SQL_ENV_FOO=1".to_string(),
    ] {
        assert!(said.lines().any(|l| l == line), "{line}: {said}");
    }
    daemon.brig(&["run", "-d", "--name", "web", "--link", "db:sql", BUSYBOX, "sleep", "1000"]).success();
    let hosts = || docker(&["exec", "web", "cat", "/etc/hosts"]).success();
    assert!(hosts().contains(&format!("{address}\tsql dbhost db")), "{}", hosts());
    docker(&["exec", "web", "ping", "-c", "1", "sql"]).success();
    assert_eq!(
        docker(&["inspect", "-f", "{{json .HostConfig.Links}}", "web"]).success(),
        r#"["/db:/web/sql"]"#
    );
    assert_eq!(
        docker(&["ps", "--no-trunc", "-f", "name=db", "--format", "{{.Names}}"]).success(),
        "db,web/sql"
    );

    // Its address changes with its start, and whoever is linked to it hears of that.
    docker(&["stop", "-t", "0", "db"]).success();
    docker(&["run", "-d", "--name", "between", BUSYBOX, "sleep", "1000"]).success();
    let taken = docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "between"]).success();
    docker(&["start", "db"]).success();
    let now = docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).success();
    assert_ne!(taken, now);
    assert!(hosts().contains(&format!("{now}\tsql dbhost db")), "{}", hosts());
    assert_eq!(hosts().lines().filter(|l| l.contains("sql")).count(), 1);

    // Mistakes have names.
    let unknown = docker(&["run", "--link", "nobody", BUSYBOX, "true"]);
    assert!(unknown.stderr.contains("could not get container for nobody"), "{unknown:?}");
    let host = docker(&["run", "--net", "host", "--link", "db", BUSYBOX, "true"]);
    assert!(host.stderr.contains("host type networking can't be used with links"), "{host:?}");
    docker(&["stop", "-t", "0", "db", "web"]).success();
    let stopped = docker(&["start", "web"]);
    assert!(
        stopped.stderr.contains("Cannot link to a non running container: /db AS /web/sql"),
        "{stopped:?}"
    );

    // A link is removed by its name, and stays removed.
    docker(&["rm", "--link", "web/sql"]).success();
    docker(&["rm", "--link", "web/sql"]).expect(1);
    daemon.kill9();
    daemon.spawn();
    assert_eq!(daemon.get("/containers/web/json")["HostConfig"]["Links"], json!([]));
    daemon.brig(&["start", "web"]).success();
    daemon.remove_all();
    daemon.assert_empties();
}
