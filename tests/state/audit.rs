//! The audit log: tampering, retention, a disk that is full, callers that go, a process that is killed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tailkeep::audit::PARTS_PER_AGENT_MAX;
use tailkeep::audit::log::{APPEND_WAIT_MS, Log, NOT_DONE, QUEUE_RECORDS_MAX};
use tailkeep::audit::read::{Filter, Reader, Verified};

use crate::record;

pub const SOON: Duration = Duration::from_secs(20);

pub fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_micros() as i64
}

pub fn verify(path: &Path) -> Verified {
    Reader::open(path).unwrap().verify().unwrap()
}

pub async fn fill(log: &Log, count: usize, at_us: i64) {
    for from in (0..count).step_by(500) {
        let tasks: Vec<_> = (from..count.min(from + 500))
            .map(|n| {
                let log = log.clone();
                let mut record = record(&format!("GET /{n}"));
                record.at_us = at_us;
                tokio::spawn(async move { log.append(record).await.unwrap() })
            })
            .collect();
        for task in tasks {
            log.finish(task.await.unwrap(), tailkeep::audit::Outcome::default());
        }
    }
    log.flush().await.unwrap();
}

/// The fault that shows after `change` to a copy of a log.
pub fn fault_after(path: &Path, change: &str) -> Option<String> {
    let copy = tempfile::tempdir().unwrap();
    let other = copy.path().join("audit.db");
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute("VACUUM INTO ?", [other.to_str().unwrap()])
        .unwrap();
    std::fs::copy(path.with_extension("head"), other.with_extension("head")).unwrap();
    let connection = rusqlite::Connection::open(&other).unwrap();
    connection.execute_batch(change).unwrap();
    assert!(connection.changes() > 0, "nothing changed: {change}");
    verify(&other).fault
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_is_moved_a_little_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let long = "x".repeat(16 << 10);
    for _ in 0..40 {
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (log, record) = (log.clone(), record(&long));
                tokio::spawn(async move { log.append(record).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        log.flush().await.unwrap();
    }
    // Of 12 MiB, what is moved at once and what one commit is over it.
    let left = std::fs::metadata(path.with_extension("db-wal")).unwrap().len();
    assert!(left < 4 << 20, "{left}");
    let database = std::fs::metadata(&path).unwrap().len();
    assert!(database > 8 << 20, "{database}");
    assert_eq!(verify(&path).fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_row_shows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    fill(&log, 50, 1).await;
    assert_eq!(fault_after(&path, "UPDATE record SET id = id WHERE id = 1"), None);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let columns = |table: &str| -> Vec<String> {
        let mut statement = connection
            .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
            .unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.collect::<Result<_, _>>().unwrap()
    };
    // Altered: every column of both tables.
    for (table, key) in [("record", "id"), ("outcome", "seq")] {
        for column in columns(table) {
            let value = if column == "hash" {
                "zeroblob(32)"
            } else {
                "'99999'"
            };
            let change = format!("UPDATE {table} SET {column} = {value} WHERE {key} = 20");
            assert!(fault_after(&path, &change).is_some(), "unseen: {change}");
        }
    }
    for change in [
        // Removed, in the middle and at the start.
        "DELETE FROM record WHERE id = 20",
        "DELETE FROM record WHERE id = 1",
        "DELETE FROM outcome WHERE seq = 20",
        // Truncated.
        "DELETE FROM record WHERE id > 40",
        "DELETE FROM outcome WHERE seq > 40",
        "DELETE FROM outcome",
        // Reordered.
        "UPDATE record SET id = -1 WHERE id = 20; UPDATE record SET id = 20 WHERE id = 21; UPDATE record SET id = 21 WHERE id = -1",
        // Inserted, and a removed head of the log with an anchor made up for it.
        "INSERT INTO record SELECT 51, at_us, step, transport, node, login, address, profile, endpoint, credential, summary, \
         facts, digest, verdict, cause, rule, reason, detail, approvers, shadow, judge_us, wait_us, policy, hash, agent FROM record WHERE id = 50",
        "UPDATE record SET step = 'gateway', cause = 'pruned', facts = '{\"record\":10,\"record_hash\":\"' || \
         (SELECT lower(hex(hash)) FROM record WHERE id = 10) || '\",\"outcome\":0,\"outcome_hash\":\"\"}' WHERE id = 50; \
         DELETE FROM record WHERE id <= 10",
    ] {
        assert!(fault_after(&path, change).is_some(), "unseen: {change}");
    }
    std::fs::remove_file(path.with_extension("head")).unwrap();
    assert!(verify(&path).fault.is_some(), "the note is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_before_a_start_stays_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    fill(&Log::open(&path).unwrap(), 20, 1).await;
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("DELETE FROM record WHERE id > 15; DELETE FROM outcome WHERE record > 15")
        .unwrap();
    let log = Log::open(&path).unwrap();
    fill(&log, 20, 1).await;
    let fault = verify(&path).fault.unwrap();
    assert!(fault.contains("record 20 was noted"), "{fault}");
}

/// The journal's records follow a chain that is not there any more: they are kept, and the log says where.
#[test]
fn a_journal_that_follows_nothing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let mut child = child("", "audit::child_that_writes", dir.path()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Some groups, so that the journal has been written.
    lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("id "))
        .take(2_000)
        .last();
    child.kill().unwrap();
    child.wait().unwrap();
    let journal = std::fs::read(path.with_extension("journal")).unwrap();
    assert!(!journal.is_empty());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("DELETE FROM record WHERE id > 15")
        .unwrap();
    drop(Log::open(&path).unwrap());
    assert_eq!(
        std::fs::read(dir.path().join("audit.journal-15")).unwrap(),
        journal
    );
    let facts: String = connection
        .query_row(
            "SELECT facts FROM record WHERE cause = 'log_damaged'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(facts.contains(r#""journal":"audit.journal-15""#), "{facts}");
}

/// The database takes each group itself, before it is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_takes_nothing_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    std::os::unix::fs::symlink("/dev/full", path.with_extension("journal")).unwrap();
    let log = Log::open(&path).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    for n in 0..100 {
        let id = log.append(record(&format!("GET /{n}"))).await.unwrap();
        // Read by another connection, which sees what is committed alone.
        let last: u64 = connection
            .query_row("SELECT max(id) FROM record", [], |row| row.get::<_, i64>(0))
            .unwrap()
            .cast_unsigned();
        assert_eq!(last, id.0);
    }
    drop(log);
    assert_eq!(verify(&path).fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allow_that_nobody_waits_for_is_no_allow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    let short = Duration::from_millis(100);

    // Its caller goes while the log is held up: given up before it was written.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = tokio::spawn({
        let log = log.clone();
        async move { log.append(record("the writer waits with this")).await }
    });
    tokio::time::sleep(short).await;
    let mut denied = record("denied");
    (denied.verdict, denied.cause) = ("deny", "rule");
    for record in [record("allowed"), denied] {
        assert!(tokio::time::timeout(short, log.append(record)).await.is_err());
    }
    other.execute_batch("ROLLBACK").unwrap();
    first.await.unwrap().unwrap();

    // Its caller goes between the commit and the answer.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut late = Box::pin(log.append(record("committed")));
    assert!(tokio::time::timeout(Duration::ZERO, &mut late).await.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    log.flush().await.unwrap();
    drop(late);
    log.flush().await.unwrap();

    let rows = Reader::open(&path).unwrap().select(&Filter::default()).unwrap();
    let story: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
            [
                &row["summary"],
                &row["verdict"],
                &row["cause"],
                &row["outcome"]["status"],
            ]
            .map(text)
        })
        .collect();
    assert_eq!(
        story,
        [
            ["the writer waits with this", "allow", "rule", "-"],
            ["allowed", "deny", "abandoned", "-"],
            ["denied", "deny", "rule", "-"],
            ["committed", "allow", "rule", NOT_DONE],
        ]
    );
    assert_eq!(verify(&path).fault, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_waits_and_then_denies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = std::time::Instant::now();
    let tasks: Vec<_> = (0..QUEUE_RECORDS_MAX + 64)
        .map(|n| {
            let (log, mut record) = (log.clone(), record(&n.to_string()));
            // As many as it takes for no share to be in the way.
            record.node = format!("node{}", n % 16);
            tokio::spawn(async move { log.append(record).await.is_ok() })
        })
        .collect();
    let mut written = 0;
    for task in tasks {
        written += u64::from(task.await.unwrap());
    }
    assert_eq!(written, 0);
    assert!(began.elapsed() < Duration::from_millis(APPEND_WAIT_MS + 5000));
    other.execute_batch("ROLLBACK").unwrap();
    log.append(record("again")).await.unwrap();
    log.flush().await.unwrap();
    // Not one of those that were refused stands there as allowed, but with the word that it was not done.
    let reader = Reader::open(&path).unwrap();
    let allowed = Filter {
        verdict: Some("allow".into()),
        ..Filter::default()
    };
    let rows = reader.select(&allowed).unwrap();
    let done: Vec<_> = rows
        .iter()
        .filter(|row| row["outcome"]["status"] != NOT_DONE)
        .collect();
    assert_eq!(done.len(), 1, "{done:?}");
}

/// However much one agent has waiting, another's record comes behind its share alone.
#[tokio::test]
async fn one_agent_does_not_fill_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let append = |node: &str| {
        let (log, mut record) = (log.clone(), record("GET /"));
        record.node = node.to_owned();
        tokio::spawn(async move { log.append(record).await.map(|id| id.0) })
    };
    let many: Vec<_> = (0..QUEUE_RECORDS_MAX).map(|_| append("many")).collect();
    let one = append("one");
    // All of them have been polled once this runs.
    tokio::task::yield_now().await;
    other.execute_batch("ROLLBACK").unwrap();
    let place = one.await.unwrap().unwrap();
    assert!(place <= PARTS_PER_AGENT_MAX as u64 * 2, "{place}");
    for task in many {
        task.await.unwrap().unwrap();
    }
}

/// Runs a test of this file as a process of its own, through a shell that prepares it.
fn child(prepare: &str, name: &str, dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!(
            "{prepare} exec \"$0\" --ignored --exact --nocapture {name}"
        ))
        .arg(std::env::current_exe().unwrap())
        .env("TAILKEEP_TEST_STATE", dir)
        .stdout(Stdio::piped());
    command
}

fn child_path() -> PathBuf {
    PathBuf::from(std::env::var_os("TAILKEEP_TEST_STATE").unwrap()).join("audit.db")
}

#[test]
#[ignore = "run by the test below as a process of its own"]
fn child_with_a_full_disk() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let log = Log::open(&child_path()).unwrap();
        let mut acknowledged = 0;
        // Where a large one has no room, a small one may have.
        for text in ["x".repeat(2000), String::new()] {
            let mut refused = 0;
            // The first refusal may make room: the write-ahead log is folded into the database.
            while refused < 20 {
                match log.append(record(&text)).await {
                    Ok(_) => (acknowledged, refused) = (acknowledged + 1, 0),
                    Err(_) => refused += 1,
                }
                assert!(acknowledged < 10_000, "the disk is never full");
            }
        }
        crate::hiding::deny_when_the_log_is_down(&log).await;
        // And there is room again.
        let (_, hard) = nix_limit();
        rustix::process::setrlimit(
            rustix::process::Resource::Fsize,
            rustix::process::Rlimit {
                current: hard,
                maximum: hard,
            },
        )
        .unwrap();
        log.append(record("room")).await.unwrap();
        log.flush().await.unwrap();
        println!("acknowledged {}", acknowledged + 1);
    });
}

fn nix_limit() -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    (limit.current, limit.maximum)
}

#[test]
fn a_full_disk_denies_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    // A limit on the size of files is a disk that is full, for one process. In blocks of 512 bytes.
    let prepare = "trap '' XFSZ; ulimit -S -f 1000;";
    let output = child(prepare, "audit::child_with_a_full_disk", dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = said
        .split("acknowledged ")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap();
    let verified = verify(&dir.path().join("audit.db"));
    assert_eq!(verified.fault, None);
    let allowed = Filter {
        verdict: Some("allow".into()),
        limit: Some(1000),
        ..Filter::default()
    };
    let rows = Reader::open(&dir.path().join("audit.db"))
        .unwrap()
        .select(&allowed)
        .unwrap();
    assert_eq!(
        rows.len().to_string(),
        count,
        "neither more nor fewer than were acknowledged"
    );
}

#[test]
#[ignore = "run by the test below as a process of its own"]
fn child_that_writes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let log = Log::open(&child_path()).unwrap();
        for n in 0.. {
            let tasks: Vec<_> = (0..16)
                .map(|m| {
                    let log = log.clone();
                    tokio::spawn(async move { log.append(record(&format!("{n}-{m}"))).await.unwrap() })
                })
                .collect();
            for task in tasks {
                println!("id {}", task.await.unwrap().0);
            }
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let mut last = 0;
    for _ in 0..3 {
        let mut child = child("", "audit::child_that_writes", dir.path()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        for id in lines
            .filter_map(|line| line.strip_prefix("id ")?.parse::<u64>().ok())
            .take(500)
        {
            last = id.max(last);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(Log::open(&path).unwrap());
        let verified = verify(&path);
        assert_eq!(verified.fault, None);
        assert!(verified.last >= last, "{verified:?}, acknowledged {last}");
    }
}

#[test]
#[ignore = "run by the test below as a process of its own"]
fn child_without_rights() {
    let error = Log::open(&child_path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not writable"), "{error}");
}

#[test]
fn a_read_only_log_is_refused_at_the_start() {
    use std::os::unix::fs::PermissionsExt as _;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another account");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(&dir.path().join("audit.db")).unwrap());
    // The test's program is copied: others may not read the folder that it is in.
    let own = dir.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &own).unwrap();
    for (path, mode) in [
        (dir.path(), 0o755),
        (&dir.path().join("audit.db"), 0o644),
        (&own, 0o755),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&own)
        .args(["--ignored", "--exact", "audit::child_without_rights"])
        .env("TAILKEEP_TEST_STATE", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A log of the first version, which kept nothing of a node's tags: it is read as it is, goes on in the
/// present form, and its chain holds throughout.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_the_first_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    fill(&log, 3, 1).await;
    log.flush().await.unwrap();
    drop(log);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let first = "ALTER TABLE record DROP COLUMN agent; PRAGMA user_version = 1;";
    connection.execute_batch(first).unwrap();
    drop(connection);
    let read = || Reader::open(&path).unwrap().select(&Filter::default()).unwrap();
    assert_eq!((verify(&path).fault, read().len()), (None, 3));
    assert_eq!(read()[2]["outcome"]["bytes_up"], 0);
    assert!(read()[0].get("agent").is_none());

    let log = Log::open(&path).unwrap();
    let mut tagged = record("GET /tagged");
    tagged.agent = Some(serde_json::json!({"tags": ["tag:ci"]}));
    log.append(tagged).await.unwrap();
    let mut large = record("GET /large");
    large.agent = Some(serde_json::json!({"tags": ["x".repeat(tailkeep::audit::FACT_BYTES_MAX)]}));
    large.bound_agent();
    log.append(large).await.unwrap();
    log.flush().await.unwrap();
    drop(log);
    assert_eq!((verify(&path).fault, read().len()), (None, 5));
    assert_eq!(read()[3]["agent"]["tags"][0], "tag:ci");
    assert!(read()[4].get("agent").is_none(), "over FACT_BYTES_MAX");
    for change in [
        "UPDATE record SET agent = NULL WHERE id = 4",
        "UPDATE record SET agent = '{\"tags\":[\"tag:ops\"]}' WHERE id = 4",
        "UPDATE record SET agent = '{}' WHERE id = 1",
    ] {
        assert!(fault_after(&path, change).is_some(), "{change}");
    }
}
