-- A database of format version 1, as `sqlite3 brig.db .dump` shows it, with the two header fields that a dump leaves out.
PRAGMA application_id = 1651665255;
PRAGMA user_version = 1;
BEGIN;
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

INSERT INTO images VALUES ('sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":7}', '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":7}', 'sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 42, '2024-01-02T03:04:05Z', 1700000000000, NULL);
INSERT INTO image_references VALUES ('docker.io/library/x', ':1', 'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa');
INSERT INTO image_references VALUES ('docker.io/library/x', '@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa');
INSERT INTO image_blobs VALUES ('sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb');
INSERT INTO layers VALUES ('sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, NULL, 'sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 42, 1);
INSERT INTO snapshots VALUES ('c1', 4, 'sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc');
INSERT INTO records VALUES ('volume', 'v', 'data', '{"a":1}');
COMMIT;
