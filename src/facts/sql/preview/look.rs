//! What the server is asked before a statement is tried: whether anything would run that the statement's
//! text does not show. *Pure.*

use super::Trial;

/// Defaults that draw on nothing: those, `CURRENT_…` and constants.
const PLAIN_DEFAULTS: &str =
    "now|gen_random_uuid|clock_timestamp|statement_timestamp|timezone|md5|lower|upper";

impl Trial {
    /// A query of the catalogs, to be run with `search_path = pg_catalog`: one row of two texts. The
    /// first is empty where the tables do nothing of their own, else why the statement is not tried; the
    /// second is the transaction's isolation. `process` is the server process that is expected to answer.
    pub fn look(&self, process: i32) -> String {
        let list = |names: &[String]| {
            let quoted = names.iter().map(|name| format!("'{}'", name.replace('\'', "''")));
            quoted.collect::<Vec<_>>().join(",")
        };
        let defaults = match self.defaults {
            true => DRAWING.replace("{plain}", PLAIN_DEFAULTS),
            false => String::new(),
        };
        // What the agent names comes last: nothing of it is a place for what follows.
        LOOK.replace("{process}", &process.to_string())
            .replace("{defaults}", &defaults)
            .replace("{functions}", &list(&self.functions))
            .replace("{operators}", &list(&self.operators))
            .replace("{types}", &list(&self.types))
            .replace("{names}", &list(&self.tables))
    }
}

/// All tables of these names, whatever their schema, with what inherits from them and what follows
/// them by a foreign key; `above` are those with what they are partitions of, whose keys are computed for each row;
/// `types` are those of their columns, with all that these are made of. What is not the server's own stands in
/// `pg_depend`; what is, does not. A text in
/// it has no backslash: the agent may have said what those mean. Objects from 16384 on are not the
/// server's own.
const LOOK: &str = "WITH RECURSIVE near(id) AS (
  SELECT c.oid FROM pg_catalog.pg_class c
   WHERE c.relname::text = ANY (ARRAY[{names}]::text[]) AND c.relkind NOT IN ('i','I','S','t','c')
  UNION
  SELECT x.id FROM near n CROSS JOIN LATERAL (
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = n.id
    UNION ALL
    SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.confrelid = n.id AND k.contype = 'f'
      AND (k.confdeltype IN ('c','n','d') OR k.confupdtype IN ('c','n','d'))) x(id)
), above(id) AS (
  SELECT n.id FROM near n
  UNION
  SELECT i.inhparent FROM above a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.id
), types(id) AS (
  SELECT a.atttypid FROM near n JOIN pg_catalog.pg_attribute a ON a.attrelid = n.id WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT x.id FROM types s JOIN pg_catalog.pg_type t ON t.oid = s.id CROSS JOIN LATERAL (
    VALUES (t.typbasetype), (t.typelem), (t.typarray)
    UNION ALL
    SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) x(id)
   WHERE t.oid >= 16384 AND x.id <> 0
), own(class, id) AS (
  SELECT 'pg_catalog.pg_attrdef'::regclass, d.oid FROM pg_catalog.pg_attrdef d JOIN near n ON d.adrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k JOIN near n ON k.conrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k
    JOIN types s ON s.id = k.contypid WHERE k.contypid <> 0
  UNION ALL
  SELECT 'pg_catalog.pg_policy'::regclass, p.oid FROM pg_catalog.pg_policy p JOIN near n ON p.polrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i JOIN near n ON i.indrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, a.id FROM above a
), run(tree) AS (
  SELECT k.conbin::text FROM pg_catalog.pg_constraint k JOIN own o ON o.class = 'pg_catalog.pg_constraint'::regclass AND o.id = k.oid
  UNION ALL
  SELECT x.tree FROM pg_catalog.pg_policy p JOIN near n ON p.polrelid = n.id
    CROSS JOIN LATERAL (VALUES (p.polqual::text), (p.polwithcheck::text)) x(tree)
), foreign_type(id) AS (
  SELECT p.oid FROM pg_catalog.pg_type p WHERE p.oid >= 16384 AND NOT EXISTS (SELECT FROM types s WHERE s.id = p.oid)
)
SELECT CASE
  WHEN pg_catalog.pg_backend_pid() <> {process} THEN 'the session is not the server''s own'
  WHEN NOT EXISTS (SELECT FROM near) THEN 'its table is not there'
  WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_class c ON c.oid = n.id WHERE c.relkind NOT IN ('r','p'))
    THEN 'it names a view or a foreign table'
  WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_trigger t ON t.tgrelid = n.id WHERE NOT t.tgisinternal)
    THEN 'a trigger would run, whose effects are not known'
  WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_rewrite r ON r.ev_class = n.id)
    THEN 'a rule would rewrite it'
  WHEN EXISTS (SELECT FROM own o JOIN pg_catalog.pg_depend d ON d.classid = o.class AND d.objid = o.id
      WHERE d.refclassid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_operator'::regclass,
        'pg_catalog.pg_opclass'::regclass, 'pg_catalog.pg_opfamily'::regclass))
    THEN 'a default, a constraint, a policy, an index or a partition key calls a function that is not the server''s own'
  WHEN EXISTS (SELECT FROM own o JOIN pg_catalog.pg_depend d ON d.classid = o.class AND d.objid = o.id
      JOIN pg_catalog.pg_type t ON t.oid = d.refobjid
      WHERE d.refclassid = 'pg_catalog.pg_type'::regclass AND NOT EXISTS (SELECT FROM types s WHERE s.id = t.oid)
        AND (t.typtype <> 'e' OR t.typinput::oid >= 16384))
    THEN 'a default, a constraint, a policy or an index is of a type whose functions may not be the server''s own'
  WHEN EXISTS (SELECT FROM own o JOIN pg_catalog.pg_depend d ON d.classid = o.class AND d.objid = o.id
      WHERE o.class = 'pg_catalog.pg_policy'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
        AND NOT EXISTS (SELECT FROM near n WHERE n.id = d.refobjid))
    THEN 'a policy reads another table or a view, whose functions are not known'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_cast c
      WHERE c.castfunc >= 16384 AND c.castsource < 16384 AND c.casttarget < 16384)
    THEN 'a cast between the server''s own types is not its own'
  WHEN EXISTS (SELECT FROM types s JOIN pg_catalog.pg_type t ON t.oid = s.id WHERE t.oid >= 16384
      AND (t.typinput::oid >= 16384 OR EXISTS (SELECT FROM pg_catalog.pg_cast c
        WHERE (c.castsource = t.oid OR c.casttarget = t.oid) AND c.castfunc >= 16384)))
    THEN 'a column is of a type whose functions are not the server''s own'
  WHEN EXISTS (SELECT FROM run r CROSS JOIN LATERAL
      pg_catalog.regexp_matches(r.tree, ':(funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') m(f)
      JOIN pg_catalog.pg_proc p ON p.oid = m.f[2]::oid WHERE p.provolatile = 'v')
    OR EXISTS (SELECT FROM run r WHERE pg_catalog.strpos(r.tree, 'NEXTVALEXPR') > 0)
    THEN 'a constraint or a policy calls a function that has effects of its own'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proname::text = ANY (ARRAY[{functions}]::text[])
      AND p.pronamespace <> 'pg_catalog'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proargtypes) a(t) JOIN foreign_type f ON f.id = a.t))
    THEN 'a function that is not the server''s own has the name of one that it calls'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_operator p WHERE p.oprname::text = ANY (ARRAY[{operators}]::text[])
      AND p.oprnamespace <> 'pg_catalog'::regnamespace
      AND NOT EXISTS (SELECT FROM foreign_type f WHERE f.id IN (p.oprleft, p.oprright)))
    THEN 'an operator that is not the server''s own has the name of one that it uses'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.typname::text = ANY (ARRAY[{types}]::text[])
      AND t.typnamespace <> 'pg_catalog'::regnamespace)
    THEN 'a type that is not the server''s own has the name of one that it uses'
  {defaults}
  ELSE '' END, pg_catalog.current_setting('transaction_isolation')";

const DRAWING: &str = "WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_attribute a ON a.attrelid = n.id WHERE a.attidentity <> '')
    OR EXISTS (SELECT FROM near n JOIN pg_catalog.pg_attrdef d ON d.adrelid = n.id
      WHERE pg_catalog.regexp_replace(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '\\m({plain})\\(', '', 'g') ~ '[[:alnum:]_\"]\\(')
    THEN 'a default draws on what no rollback gives back, such as a sequence'";
