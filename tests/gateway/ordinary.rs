//! The gateway as an ordinary user: no step of the main path needs root.

use crate::http::request;
use crate::postgres::{PASSWORD, Server};
use crate::server::{BOTH, Service};
use crate::sql::psql;
use crate::world::{TOKEN, World, can_run};

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_can_be_the_gateway() {
    if !can_run() || !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: not root, so every other test here shows it already");
        return;
    }
    let (service, server) = (Service::start(BOTH).await, Server::start(&[]));
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), PASSWORD).unwrap();
    std::os::unix::fs::chown(secret.path(), Some(65534), None).unwrap();
    let rules = r#"
  rule "api" {
    endpoint = https.api
    verdict  = "allow"
  }
  rule "reads" {
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v == 'select')"
    verdict   = "allow"
  }"#;
    let policy = crate::http::policy(&service, rules)
        .replace("[https.api]", "[https.api, postgres.orders]")
        .replace(
            "[bearer_token.pat]",
            "[bearer_token.pat, postgres_credential.app]",
        );
    let database = format!(
        "endpoint \"postgres\" \"orders\" {{\n  host = \"orders.test:5432\"\n  upstream = \"127.0.0.1:{}\"\n  \
         sslmode = \"disable\"\n}}\ncredential \"postgres_credential\" \"app\" {{\n  endpoint = postgres.orders\n  \
         user = \"app\"\n  secret = file(\"{}\")\n}}\n",
        server.port,
        secret.path().display()
    );
    let world = World::start_by_nobody(&format!("{database}{policy}"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.gateway_id())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    // What it frees goes back also while nothing is asked of it.
    let threads = std::fs::read_dir(format!("/proc/{}/task", world.gateway_id())).unwrap();
    let mut names =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
    assert!(names.any(|name| name.trim() == "jemalloc_bg_thd"));
    assert_eq!(psql(&world, "select current_user"), "app\n");
    assert!(psql(&world, "create table t ()").contains("42501"));
    let bearer = "Authorization: Bearer {{pat}}\r\n";
    let [answer] = &world.exchange(&[request("GET /1k", bearer, b"")])[..] else {
        panic!()
    };
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(service.lines()[0].contains("/1k"), "{:?}", service.lines());
    let audit = world.audit();
    assert!(
        audit
            .iter()
            .any(|row| row["summary"] == "create table t ()" && row["verdict"] == "deny")
    );
    assert!(!format!("{audit:?}").contains(TOKEN));
}
