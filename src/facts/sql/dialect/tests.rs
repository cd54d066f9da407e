use super::*;

const BYTES_MAX: usize = 128 << 10;

/// `verbs | reads | writes | functions | flags`, names parted by spaces; `refused` for a text
/// that is unparseable.
fn shown(text: &str, dialect: Dialect) -> String {
    let statements = read(text, dialect, BYTES_MAX);
    let show = |statement: &Arc<Statement>| {
        if statement.unparseable {
            assert!(statement.verbs.is_empty() && statement.tables.is_empty() && !statement.has_where);
            return "refused".to_owned();
        }
        assert_eq!(statement.verb, statement.verbs[0], "{text}");
        let both = statement.reads.iter().chain(&statement.writes);
        assert!(both.clone().all(|name| statement.tables.contains(name)), "{text}");
        let mut flags = Vec::new();
        if statement.has_where {
            flags.push("where".to_owned());
        }
        if let Some(limit) = statement.row_limit {
            flags.push(format!("limit={limit}"));
        }
        let lists = [
            &statement.verbs,
            &statement.reads,
            &statement.writes,
            &statement.functions,
            &flags,
        ];
        lists.map(|list| list.join(" ")).join("|")
    };
    statements.iter().map(show).collect::<Vec<_>>().join(" ;; ")
}

#[track_caller]
fn mysql(text: &str, want: &str) {
    assert_eq!(shown(text, Dialect::Mysql), want, "{text}");
}

#[track_caller]
fn clickhouse(text: &str, want: &str) {
    assert_eq!(shown(text, Dialect::Clickhouse), want, "{text}");
}

#[track_caller]
fn both(text: &str, want: &str) {
    mysql(text, want);
    clickhouse(text, want);
}

#[test]
fn queries() {
    both("SELECT 1", "select||||");
    both(
        "select a from t where b = 1 limit 5",
        "select|t|||where|limit=5".replace("where|", "where ").as_str(),
    );
    both("select a from t limit 10, 5", "select|t|||limit=5");
    both("(select a from t limit 5)", "select|t|||limit=5");
    both("select * from d.t as x, `Q`.`U`", "select|d.t t Q.U U|||");
    both(
        "select * from t where a in (select b from u)",
        "select|t u|||where",
    );
    both("select * from t where 1 = 1", "select|t|||");
    both("with c as (select * from a) select * from c, b", "select|a b|||");
    both("with c as (select * from c) select * from c", "select|c|||");
    both(
        "select * from (with c as (select 1) select * from c) x, c",
        "select|c|||",
    );
    both("select 1 union all select a from t", "select|t|||");
    both("select 1; ; delete from t;", "select|||| ;; delete||t||");
    mysql("SELECT COUNT(*), d.F(1) FROM t", "select|t||count d.f f|");
    mysql("with C as (select 1) select * from c", "select||||");
    clickhouse(
        "SELECT COUNT(*), toDate(1) FROM t",
        "select|t||COUNT count toDate todate|",
    );
    clickhouse("with C as (select 1) select * from c", "select|c|||");
    clickhouse("select * from t where id in u", "select|t u|||where");
    clickhouse("select * from url('http://x') where a = 1", "select|||url|where");
    clickhouse("select a from t array join b limit 3 by a", "select|t|||");
    clickhouse(
        "select a from t final prewhere a = 1 settings max_threads = 1",
        "select|t|||where",
    );
    mysql(
        "select * from json_table('[]', '$[*]' columns (a int path '$')) as j",
        "select|||json_table|",
    );
    mysql("select $$; drop table t; -- $$", "select|||| ;; drop||t||");
    mysql("select sleep(10) from dual for update", "select|dual||sleep|");
}

#[test]
fn changes_of_rows() {
    both("insert into d.t(a) values (1)", "insert||d.t t||");
    both("insert into t select * from u", "insert select|u|t||");
    mysql("insert into t set a = f(1)", "insert||t|f|");
    mysql("replace into t values (1)", "replace delete insert||t||where");
    mysql(
        "insert into t values (1) on duplicate key update a = 2",
        "insert update||t||where",
    );
    mysql("update t set a = 1", "update||t||");
    mysql(
        "update t set a = (select max(b) from u) where id = 2 limit 1",
        "update|u|t|max|where limit=1",
    );
    mysql(
        "update t join u on t.a = u.a set t.b = 1 where u.c = 2",
        "update|t u|t u||where",
    );
    both("delete from t", "delete||t||");
    for everything in ["1", "true", "1 = 1", "id = id", "id = 1 or 1", "not 0", "(true)"] {
        both(&format!("delete from t where {everything}"), "delete||t||");
    }
    both("delete from t where id = 1", "delete||t||where");
    mysql("delete from t where id = 1 limit 7", "delete||t||where limit=7");
    mysql("delete a from t as a join u on a.x = u.x", "delete|t u|t u||");
    mysql(
        "delete from a using t as a join u on a.x = u.x where u.y = 1",
        "delete|t u|t u||where",
    );
    mysql(
        "with c as (select 1 as x) delete from t where id in (select x from c)",
        "delete||t||where",
    );
    mysql("explain delete from t", "explain||t||");
    mysql("explain analyze select * from t", "explain select|t|||");
    clickhouse(
        "insert into function remote('h', d.t) values (1)",
        "insert|||remote|",
    );
}

#[test]
fn definitions_and_sessions() {
    both("create table d.t (a int)", "create||d.t t||");
    both("create table t as select * from u", "create select|u|t||");
    both("create view v as select * from u", "create|u|v||");
    both("drop table if exists a, d.b", "drop||a d.b b||");
    both("drop database d", "drop||||");
    both("truncate table t", "truncate||t||");
    both("alter table t drop column a", "alter||t||");
    both("rename table a to b", "rename||a b||");
    both("show tables", "show||||");
    both("show create table d.t", "show|d.t t|||");
    both("use d", "use||||");
    mysql("show tables from d", "show||||");
    mysql("desc t", "describe|t|||");
    mysql("alter table a rename to b", "alter||b a||");
    mysql("start transaction", "start||||");
    mysql("begin", "begin||||");
    mysql("rollback", "rollback||||");
    mysql("set autocommit = 0", "set||||");
    mysql("grant select on d.t to u", "grant||d.t t||");
    mysql("grant select on *.* to u", "grant||*.* *||");
    mysql("call d.p(1)", "call|||d.p p|");
    mysql("lock tables t write", "lock||t||");
    clickhouse("optimize table t final", "optimize||t||");
    clickhouse(
        "create materialized view v to w as select * from u",
        "create|u|w v||",
    );
    clickhouse("create table t (a Int8) engine = Memory", "create||t||");
}

/// What `sqlparser` and the server would read differently, and what is not known at all.
#[test]
fn doubts_are_refused() {
    for text in [
        "",
        "selec 1",
        "select 1 /*! ; drop table t */",
        "select 1 /*!50000 union select 2 */",
        "select 1 /*M! + 1 */",
        "select /* a /* b */ 1",
        "select 1\u{a0}",
        "select 1 --\r; drop table t",
        "select '\0'",
        "select * from t into outfile '/tmp/x'",
        "select * into n from t",
        "load data infile 'x' into table t",
        "create function f() returns int return 1",
        "create trigger a before insert on t for each row set @x = 1",
        "begin; select 1; end if",
        "do sleep(1)",
        "handler t open",
        "prepare s from 'drop table t'",
        "execute s",
        "create user u identified by 'x'",
        "install plugin x soname 'y'",
        "shutdown",
    ] {
        if text.is_empty() {
            assert!(read(text, Dialect::Mysql, BYTES_MAX).is_empty());
            continue;
        }
        mysql(text, "refused");
    }
    for text in [
        "select \"a\\\"; drop table t; --\"",
        "select `a\\`",
        "select $a$ x $a$",
        "select 1 # comment",
        "select 1 // comment",
        "insert into t format JSONEachRow {\"a\":1}",
        "alter table t delete where 1",
        "alter table t update a = 1 where 1",
        "alter table t replace partition p from u",
        "system shutdown",
        "kill query where 1",
        "create user u",
        "select * from t into outfile 'x'",
        "attach table t",
        "select * from {t:Identifier}",
    ] {
        clickhouse(text, "refused");
    }
}

/// Deep trees end neither the thread nor the process.
#[test]
fn depth_and_length_are_bounded() {
    for dialect in [Dialect::Mysql, Dialect::Clickhouse] {
        for (open, middle, close) in [
            ("", "1", "+1"),
            ("(", "1", ")"),
            ("not ", "a", ""),
            ("- ", "1", ""),
            ("(select ", "1", ")"),
            ("", "1", " or a"),
            ("f(", "1", ")"),
            ("case when ", "1", " then 1 end"),
            ("", "1", " union select 1"),
            ("", "a", " is null"),
            ("", "a", "[1]"),
        ] {
            let unit = open.len() + close.len();
            let count = (BYTES_MAX - 16) / unit;
            let text = format!("select {}{middle}{}", open.repeat(count), close.repeat(count));
            assert!(text.len() <= BYTES_MAX);
            read(&text, dialect, BYTES_MAX);
        }
        let nested = |levels: usize| format!("select {}1{}", "(".repeat(levels), ")".repeat(levels));
        assert_eq!(shown(&nested(40), dialect), "select||||");
        assert_eq!(shown(&nested(NESTING_MAX + 1), dialect), "refused");
        let long = format!("select '{}'", "x".repeat(BYTES_MAX));
        assert_eq!(shown(&long, dialect), "refused");
        assert_eq!(shown(&long[..BYTES_MAX - 1], dialect), "refused");
        let fits = format!("select '{}'", "x".repeat(BYTES_MAX - 9));
        assert_eq!(
            (fits.len(), shown(&fits, dialect).as_str()),
            (BYTES_MAX, "select||||")
        );
    }
}

#[test]
fn names_of_dialects() {
    assert_eq!(Dialect::of("mysql"), Some(Dialect::Mysql));
    assert_eq!(Dialect::of("clickhouse"), Some(Dialect::Clickhouse));
    assert_eq!(Dialect::of("postgres"), None);
    assert_eq!(Dialect::of("MySQL"), None);
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", mysql: bool) {
        let dialect = if mysql { Dialect::Mysql } else { Dialect::Clickhouse };
        read(&text, dialect, BYTES_MAX);
    }
}
