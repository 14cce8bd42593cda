//! The tables, as a list of steps that lead from an empty file to the present format.
//!
//! Each step raises `user_version` by one, in the transaction that makes its change. A step that has been released
//! is never edited: a change is a new step, and a line in `docs/formats/database.md`.

/// Marks the file as ours: "brig" in ASCII. SQLite keeps it in the header.
pub(crate) const APPLICATION_ID: i64 = 0x6272_6967;

/// Step `n` turns version `n` into `n + 1`.
pub(crate) const STEPS: &[&str] = &[
    "
    CREATE TABLE images (
        id TEXT PRIMARY KEY NOT NULL,
        manifest TEXT NOT NULL,
        target TEXT NOT NULL,
        chain_id TEXT,
        size_bytes INTEGER NOT NULL,
        created TEXT NOT NULL,
        added_ms INTEGER NOT NULL,
        tagged_ms INTEGER
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE image_references (
        repository TEXT NOT NULL,
        label TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        PRIMARY KEY (repository, label)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_references_by_image ON image_references (image_id);

    CREATE TABLE image_blobs (
        image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        digest TEXT NOT NULL,
        PRIMARY KEY (image_id, digest)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE layers (
        chain_id TEXT PRIMARY KEY NOT NULL,
        number INTEGER NOT NULL UNIQUE,
        parent TEXT,
        diff_id TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        durable INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE snapshots (
        key TEXT PRIMARY KEY NOT NULL,
        number INTEGER NOT NULL UNIQUE,
        parent TEXT
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE records (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (kind, id),
        UNIQUE (kind, name)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE image_parents (
        image_id TEXT PRIMARY KEY NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        parent TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_parents_by_parent ON image_parents (parent);
",
    "
    CREATE TABLE build_cache (
        key TEXT PRIMARY KEY NOT NULL,
        kind TEXT NOT NULL,
        parent TEXT,
        chain_id TEXT,
        blob TEXT,
        body TEXT NOT NULL,
        description TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        used_ms INTEGER NOT NULL,
        uses INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE image_platforms (
        repository TEXT NOT NULL,
        label TEXT NOT NULL,
        platform TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        PRIMARY KEY (repository, label, platform)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_platforms_by_image ON image_platforms (image_id);
",
    "
    CREATE TABLE driver_layers (
        driver TEXT NOT NULL,
        chain_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        parent TEXT,
        diff_id TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        durable INTEGER NOT NULL,
        PRIMARY KEY (driver, chain_id),
        UNIQUE (driver, number)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO driver_layers SELECT 'overlay', chain_id, number, parent, diff_id, size_bytes, durable FROM layers;
    DROP TABLE layers;
    ALTER TABLE driver_layers RENAME TO layers;

    CREATE TABLE driver_snapshots (
        driver TEXT NOT NULL,
        key TEXT NOT NULL,
        number INTEGER NOT NULL,
        parent TEXT,
        PRIMARY KEY (driver, key),
        UNIQUE (driver, number)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO driver_snapshots SELECT 'overlay', key, number, parent FROM snapshots;
    DROP TABLE snapshots;
    ALTER TABLE driver_snapshots RENAME TO snapshots;
",
];
