//! Images, the references that name them, the blobs they keep.

use crate::{Error, ReadTx, WriteTx};
use oci::{Descriptor, Digest};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, params};

/// An image: a config, reached through a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// Digest of the config.
    pub id: Digest,
    /// The manifest that leads to the config.
    pub manifest: Descriptor,
    /// What was named when the image came in: the manifest, or the index it was chosen from.
    pub target: Descriptor,
    /// Chain ID of the topmost layer; none for an image without layers.
    pub chain_id: Option<Digest>,
    /// Sum of the sizes of the files of all its layers.
    pub size_bytes: u64,
    /// RFC 3339, as the config says; may be empty.
    pub created: String,
    /// When it was imported, in milliseconds since 1970.
    pub added_ms: i64,
    /// When a reference was last pointed at it, in milliseconds since 1970.
    pub tagged_ms: Option<i64>,
}

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReferenceRow {
    /// `host/repository`.
    pub repository: String,
    /// `:tag` or `@digest`.
    pub label: String,
    pub image_id: Digest,
}

const IMAGE: &str =
    "SELECT id, manifest, target, chain_id, size_bytes, created, added_ms, tagged_ms FROM images";

impl ReadTx<'_> {
    /// The image with this id.
    pub fn image(&self, id: &Digest) -> Result<Option<ImageRow>, Error> {
        self.tx
            .prepare_cached(&format!("{IMAGE} WHERE id = ?1"))
            .and_then(|mut s| s.query_row([id.to_string()], image).optional())
            .map_err(|source| Error::Query { what: "get image", source })
    }

    /// The ids that start with `sha256:` and `hex`, at most two of them.
    pub fn image_ids_by_prefix(&self, hex: &str) -> Result<Vec<Digest>, Error> {
        // 'g' sorts behind every hexadecimal digit.
        let (from, to) = (format!("sha256:{hex}"), format!("sha256:{hex}g"));
        self.tx
            .prepare_cached("SELECT id FROM images WHERE id >= ?1 AND id < ?2 LIMIT 2")
            .and_then(|mut s| s.query_map([from, to], |row| digest(row, 0))?.collect())
            .map_err(|source| Error::Query { what: "find image by prefix", source })
    }

    /// All images, by id.
    pub fn list_images(&self) -> Result<Vec<ImageRow>, Error> {
        self.tx
            .prepare_cached(&format!("{IMAGE} ORDER BY id"))
            .and_then(|mut s| s.query_map([], image)?.collect())
            .map_err(|source| Error::Query { what: "list images", source })
    }

    /// What a reference names.
    pub fn reference(&self, repository: &str, label: &str) -> Result<Option<Digest>, Error> {
        self.tx
            .prepare_cached("SELECT image_id FROM image_references WHERE repository = ?1 AND label = ?2")
            .and_then(|mut s| s.query_row([repository, label], |row| digest(row, 0)).optional())
            .map_err(|source| Error::Query { what: "get reference", source })
    }

    /// The references of one image, by repository and label.
    pub fn references_of(&self, id: &Digest) -> Result<Vec<ReferenceRow>, Error> {
        self.tx
            .prepare_cached(
                "SELECT repository, label, image_id FROM image_references WHERE image_id = ?1
                 ORDER BY repository, label",
            )
            .and_then(|mut s| s.query_map([id.to_string()], reference)?.collect())
            .map_err(|source| Error::Query { what: "list references of image", source })
    }

    /// All references, by repository and label.
    pub fn list_references(&self) -> Result<Vec<ReferenceRow>, Error> {
        self.tx
            .prepare_cached(
                "SELECT repository, label, image_id FROM image_references ORDER BY repository, label",
            )
            .and_then(|mut s| s.query_map([], reference)?.collect())
            .map_err(|source| Error::Query { what: "list references", source })
    }

    /// The image that each image was made from here, where one is known: (image, parent).
    pub fn list_image_parents(&self) -> Result<Vec<(Digest, Digest)>, Error> {
        self.tx
            .prepare_cached("SELECT image_id, parent FROM image_parents ORDER BY image_id")
            .and_then(|mut s| s.query_map([], |row| Ok((digest(row, 0)?, digest(row, 1)?)))?.collect())
            .map_err(|source| Error::Query { what: "list parents of images", source })
    }

    /// The images that a reference leads to by platform, as `os/architecture[/variant]`, in the order of these.
    pub fn platforms_of_reference(
        &self,
        repository: &str,
        label: &str,
    ) -> Result<Vec<(String, Digest)>, Error> {
        self.tx
            .prepare_cached(
                "SELECT platform, image_id FROM image_platforms WHERE repository = ?1 AND label = ?2
                 ORDER BY platform",
            )
            .and_then(|mut s| {
                s.query_map([repository, label], |row| Ok((row.get(0)?, digest(row, 1)?)))?.collect()
            })
            .map_err(|source| Error::Query { what: "list platforms of reference", source })
    }

    /// The references that lead to an image for its platform, by repository and label.
    pub fn platform_references_of(&self, id: &Digest) -> Result<Vec<ReferenceRow>, Error> {
        self.tx
            .prepare_cached(
                "SELECT repository, label, image_id FROM image_platforms WHERE image_id = ?1
                 ORDER BY repository, label",
            )
            .and_then(|mut s| s.query_map([id.to_string()], reference)?.collect())
            .map_err(|source| Error::Query { what: "list platform references of image", source })
    }

    /// All references that lead to images for their platforms.
    pub fn list_platform_references(&self) -> Result<Vec<ReferenceRow>, Error> {
        self.tx
            .prepare_cached(
                "SELECT repository, label, image_id FROM image_platforms ORDER BY repository, label",
            )
            .and_then(|mut s| s.query_map([], reference)?.collect())
            .map_err(|source| Error::Query { what: "list platform references", source })
    }

    /// The blobs that images keep, each once, by digest.
    pub fn list_image_blobs(&self) -> Result<Vec<Digest>, Error> {
        self.tx
            .prepare_cached("SELECT DISTINCT digest FROM image_blobs ORDER BY digest")
            .and_then(|mut s| s.query_map([], |row| digest(row, 0))?.collect())
            .map_err(|source| Error::Query { what: "list blobs of images", source })
    }

    /// The blobs that one image keeps, by digest.
    pub fn blobs_of(&self, id: &Digest) -> Result<Vec<Digest>, Error> {
        self.tx
            .prepare_cached("SELECT digest FROM image_blobs WHERE image_id = ?1 ORDER BY digest")
            .and_then(|mut s| s.query_map([id.to_string()], |row| digest(row, 0))?.collect())
            .map_err(|source| Error::Query { what: "list blobs of image", source })
    }
}

impl WriteTx<'_> {
    /// Adds an image. One with this id keeps its place and takes the new manifest and target; the blobs that it
    /// keeps become those of both.
    pub fn put_image(&self, row: &ImageRow, blobs: &[Digest]) -> Result<(), Error> {
        let id = row.id.to_string();
        self.tx
            .prepare_cached(
                "INSERT INTO images (id, manifest, target, chain_id, size_bytes, created, added_ms, tagged_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (id) DO UPDATE SET manifest = excluded.manifest, target = excluded.target",
            )
            .and_then(|mut s| {
                s.execute(params![
                    id,
                    json(&row.manifest)?,
                    json(&row.target)?,
                    row.chain_id.map(|c| c.to_string()),
                    row.size_bytes,
                    row.created,
                    row.added_ms,
                    row.tagged_ms
                ])
            })
            .map_err(|source| Error::Query { what: "put image", source })?;
        let mut insert = self
            .tx
            .prepare_cached("INSERT OR IGNORE INTO image_blobs (image_id, digest) VALUES (?1, ?2)")
            .map_err(|source| Error::Query { what: "put blobs of image", source })?;
        for blob in blobs {
            insert
                .execute([&id, &blob.to_string()])
                .map_err(|source| Error::Query { what: "put blobs of image", source })?;
        }
        Ok(())
    }

    /// Notes which image another was made from. Does nothing when the image is gone.
    pub fn put_image_parent(&self, id: &Digest, parent: &Digest) -> Result<(), Error> {
        self.tx
            .prepare_cached(
                "INSERT INTO image_parents (image_id, parent) SELECT id, ?2 FROM images WHERE id = ?1
                 ON CONFLICT (image_id) DO NOTHING",
            )
            .and_then(|mut s| s.execute([id.to_string(), parent.to_string()]))
            .map(|_| ())
            .map_err(|source| Error::Query { what: "note parent of image", source })
    }

    /// Removes an image, its references and its hold on blobs. Says whether there was one.
    pub fn delete_image(&self, id: &Digest) -> Result<bool, Error> {
        self.tx
            .prepare_cached("DELETE FROM images WHERE id = ?1")
            .and_then(|mut s| s.execute([id.to_string()]))
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "delete image", source })
    }

    /// Points a reference at an image, away from another if need be, at the time `now_ms`.
    pub fn put_reference(&self, row: &ReferenceRow, now_ms: i64) -> Result<(), Error> {
        let id = row.image_id.to_string();
        self.tx
            .prepare_cached(
                "INSERT INTO image_references (repository, label, image_id) VALUES (?1, ?2, ?3)
                 ON CONFLICT (repository, label) DO UPDATE SET image_id = excluded.image_id",
            )
            .and_then(|mut s| s.execute(params![row.repository, row.label, id]))
            .map_err(|source| Error::Query { what: "put reference", source })?;
        self.tx
            .prepare_cached("UPDATE images SET tagged_ms = ?2 WHERE id = ?1")
            .and_then(|mut s| s.execute(params![id, now_ms]))
            .map(|_| ())
            .map_err(|source| Error::Query { what: "note time of tag", source })
    }

    /// Has a reference lead to an image for `platform`, besides what it leads to for others.
    pub fn put_platform(&self, row: &ReferenceRow, platform: &str) -> Result<(), Error> {
        self.tx
            .prepare_cached(
                "INSERT INTO image_platforms (repository, label, platform, image_id) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (repository, label, platform) DO UPDATE SET image_id = excluded.image_id",
            )
            .and_then(|mut s| {
                s.execute(params![row.repository, row.label, platform, row.image_id.to_string()])
            })
            .map(|_| ())
            .map_err(|source| Error::Query { what: "put platform of reference", source })
    }

    /// Forgets what a reference leads to by platform.
    pub fn delete_platforms(&self, repository: &str, label: &str) -> Result<(), Error> {
        self.tx
            .prepare_cached("DELETE FROM image_platforms WHERE repository = ?1 AND label = ?2")
            .and_then(|mut s| s.execute([repository, label]))
            .map(|_| ())
            .map_err(|source| Error::Query { what: "delete platforms of reference", source })
    }

    /// Removes a reference, and what it leads to by platform. Says whether there was one.
    pub fn delete_reference(&self, repository: &str, label: &str) -> Result<bool, Error> {
        self.delete_platforms(repository, label)?;
        self.tx
            .prepare_cached("DELETE FROM image_references WHERE repository = ?1 AND label = ?2")
            .and_then(|mut s| s.execute([repository, label]))
            .map(|changed| changed > 0)
            .map_err(|source| Error::Query { what: "delete reference", source })
    }
}

fn image(row: &Row<'_>) -> rusqlite::Result<ImageRow> {
    Ok(ImageRow {
        id: digest(row, 0)?,
        manifest: descriptor(row, 1)?,
        target: descriptor(row, 2)?,
        chain_id: digest_option(row, 3)?,
        size_bytes: row.get(4)?,
        created: row.get(5)?,
        added_ms: row.get(6)?,
        tagged_ms: row.get(7)?,
    })
}

fn reference(row: &Row<'_>) -> rusqlite::Result<ReferenceRow> {
    Ok(ReferenceRow { repository: row.get(0)?, label: row.get(1)?, image_id: digest(row, 2)? })
}

pub(crate) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse().map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

pub(crate) fn digest_option(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Digest>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => digest(row, column).map(Some),
    }
}

fn descriptor(row: &Row<'_>, column: usize) -> rusqlite::Result<Descriptor> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

fn json(descriptor: &Descriptor) -> rusqlite::Result<String> {
    serde_json::to_string(descriptor).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}
