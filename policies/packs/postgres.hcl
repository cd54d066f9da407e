# Read-only PostgreSQL: what reads the tables passes, and nothing else. The role itself should be
# read-only too; this is the second lock, and the one that says why.

endpoint "postgres" "database" {
  host     = "database.internal.example.com:5432"
  database = "app"
  sslmode  = "verify-full"
}

credential "postgres_credential" "database_ro" {
  endpoint = postgres.database
  user     = "app_ro"
  secret   = env("DATABASE_RO_PASSWORD")
}

# DO, CALL, a function or a type of somebody's own: what they reach cannot be told, so no list below holds it.
rule "postgres-unread" {
  endpoint  = postgres.database
  priority  = 200
  condition = "sql.opaque"
  verdict   = "deny"
  reason    = "this runs code that cannot be read here"
}

# What nobody reads through an agent: your tables with secrets, and the server's own.
rule "postgres-secrets" {
  endpoint  = postgres.database
  priority  = 100
  condition = <<-CEL
    sql.tables.exists(t, t in [
      'customer_secrets', 'api_keys', 'sessions',
      'pg_authid', 'pg_shadow', 'pg_user_mapping', 'pg_user_mappings', 'pg_foreign_server',
      'pg_hba_file_rules', 'pg_ident_file_mappings', 'pg_file_settings', 'pg_subscription',
      'pg_largeobject', 'pg_stat_ssl', 'pg_config',
      'pg_stats', 'pg_stats_ext', 'pg_stats_ext_exprs', 'pg_statistic', 'pg_statistic_ext_data',
      'pg_stat_activity', 'pg_stat_statements', 'pg_stat_replication', 'pg_prepared_statements', 'pg_cursors',
      'pg_db_role_setting', 'pg_roles', 'pg_user',
      'user_mapping_options', '_pg_user_mappings', 'foreign_server_options', '_pg_foreign_servers'
    ])
    || sql.tables.exists(t, t.startsWith('pg_toast'))
  CEL
  verdict   = "deny"
  reason    = "this table holds secrets"
}

# Functions of the server itself that do more than compute: files, settings, signals, locks, sequences,
# replication, large objects, waiting.
rule "postgres-functions" {
  endpoint  = postgres.database
  priority  = 100
  condition = <<-CEL
    sql.functions.exists(f, f.matches('^(?:pg_catalog\\.)?(?:pg_read_|pg_ls_|pg_stat_file|pg_file_|pg_current_logfile|lo_|lowrite|loread|pg_sleep|pg_terminate_|pg_cancel_|pg_reload_|pg_rotate_|pg_switch_|pg_promote|pg_create_|pg_drop_|pg_replication_|pg_logical_|pg_wal_|pg_backup_|pg_start_|pg_stop_|pg_export_|pg_import_|pg_advisory_|pg_try_advisory_|pg_notify|pg_stat_reset|pg_log_|pg_show_all_file|pg_stat_get_|pg_cursor$|pg_prepared_|pg_config$|pg_copy_|pg_nextoid|setseed|pg_hba_|pg_ident_|set_config|setval|nextval|txid_current$|pg_current_xact_id$|currtid|binary_upgrade_|brin_|gin_clean_)'))
  CEL
  verdict   = "deny"
  reason    = "this function does more than read the tables"
}

# A row that is read FOR UPDATE or FOR SHARE is locked against those who write it.
rule "postgres-locks" {
  endpoint  = postgres.database
  priority  = 100
  condition = "sql.locks"
  verdict   = "deny"
  reason    = "reading is allowed, locking rows is not"
}

rule "postgres-reads" {
  endpoint  = postgres.database
  condition = <<-CEL
    !sql.role_change && !sql.program && !sql.server_file && size(sql.writes) == 0
      && sql.verbs.exists(v, v in ['select', 'show', 'explain']) && sql.verbs.all(v, v in ['select', 'show', 'explain'])
  CEL
  verdict   = "allow"
}

# Drivers put their reads into transactions.
rule "postgres-transactions" {
  endpoint  = postgres.database
  condition = "sql.verb in ['begin', 'commit', 'rollback', 'savepoint', 'release']"
  verdict   = "allow"
}

# How long a statement may take, and how texts are written; never whose rights or which schemas.
rule "postgres-settings" {
  endpoint  = postgres.database
  condition = <<-CEL
    sql.verb == 'set' && !sql.role_change
      && sql.statement.matches('(?i)^\\s*set\\s+(?:session\\s+|local\\s+)?(?:statement_timeout|application_name|datestyle|extra_float_digits)\\s*(?:=|\\sto\\s)')
  CEL
  verdict   = "allow"
}

rule "postgres-rest" {
  endpoint = postgres.database
  priority = -100
  verdict  = "deny"
  reason   = "the agents only read this database"
}
