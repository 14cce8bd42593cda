//! Removing images, by Docker's rules and in Docker's words.
//!
//! A reference is removed where one is named; the image goes with its last reference, unless containers need it. An id
//! removes the image with its references, unless these are of several repositories. `force` overrides all but running
//! containers. Clients look for the words of the conflicts, so they are Docker's to the letter.

use crate::import::{label, now_ms};
use crate::store::{find, load};
use crate::{Error, Image, ImageId, Images};
use metadata::{ReferenceRow, WriteTx};
use oci::{Digest, Reference};
use std::collections::HashSet;
use std::fmt;

/// How an image is removed.
#[derive(Clone, Copy)]
pub struct Remove<'a> {
    /// Also when several references or stopped containers stand against it.
    pub force: bool,
    /// Leave the images that this one was made from here, though nothing names or uses them any more.
    pub no_prune: bool,
    /// The containers that were made from an image.
    pub users: &'a dyn Fn(&ImageId) -> Vec<User>,
}

impl fmt::Debug for Remove<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remove").field("force", &self.force).finish_non_exhaustive()
    }
}

/// A container that was made from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub container_id: String,
    pub running: bool,
}

/// One thing that a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A reference, as Docker shows it.
    Untagged(String),
    /// An image's id or a layer's chain ID.
    Deleted(String),
}

/// What a removal comes to, decided before anything is done.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    untag: Vec<Reference>,
    delete: bool,
}

impl Images {
    /// Removes a reference, and the image with its last one; or an image by its id. On disk when it returns; works on
    /// a full disk.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchImage`]; [`Error::Conflict`] with Docker's reasons.
    pub fn remove(&self, name: &str, how: &Remove<'_>) -> Result<Vec<Removed>, Error> {
        // Asked outside the transaction: whoever answers may hold locks under which others write to the store.
        let id = self.get(name)?.id;
        let users = (how.users)(&id);
        // Other platforms of the same index go with the names that lead to them.
        let beside = self.beside(&id)?;
        let unused: HashSet<Digest> =
            beside.into_iter().filter(|id| (how.users)(&ImageId(*id)).is_empty()).collect();
        let (image, plan, others, parent) = self.db.delete_durable(|tx| {
            let image = load(tx, &find(tx, name)?)?;
            if image.id != id {
                let what = format!("{name:?} was just pointed at another image");
                return Err(Error::Conflict { what });
            }
            let family = Family::of(tx, &image.id)?;
            let plan = plan(&image, name, how.force, &users, family.has_children)?;
            let mut others = perform(tx, &image, &plan)?;
            others.retain(|other| unused.contains(other));
            for other in &others {
                tx.delete_image(other)?;
            }
            Ok::<_, Error>((image, plan, others, family.parent))
        })?;
        let mut removed: Vec<Removed> = plan.untag.iter().map(|r| Removed::Untagged(r.familiar())).collect();
        if plan.delete {
            self.forget_config(&image.id);
            removed.push(Removed::Deleted(image.id.to_string()));
            if !how.no_prune {
                removed.extend(self.remove_lonely_parents(parent, how)?);
            }
        }
        for other in &others {
            self.forget_config(&ImageId(*other));
            removed.push(Removed::Deleted(other.to_string()));
        }
        if plan.delete || !others.is_empty() {
            let layers = self.collect_garbage()?.layers;
            removed.extend(layers.iter().map(|chain_id| Removed::Deleted(chain_id.to_string())));
        }
        Ok(removed)
    }

    /// Removes `id`, one of the images that `name` leads to for its platform. The name goes on to mean the others; with the
    /// last of them it goes too.
    ///
    /// # Errors
    ///
    /// As [`Images::remove`].
    pub fn remove_platform(&self, name: &str, id: &ImageId, how: &Remove<'_>) -> Result<Vec<Removed>, Error> {
        let users = (how.users)(id);
        let reference: Reference = name.parse::<Reference>()?.with_default_tag();
        let last = self.db.delete_durable(|tx| -> Result<bool, Error> {
            let image = load(tx, &id.0)?;
            check_running(&image, &users)?;
            if let Some(user) = users.first().filter(|_| !how.force) {
                let what = format!("image is being used by stopped container {}", short(&user.container_id));
                return Err(undeletable(&image, "must be forced", &what));
            }
            let names: Vec<Reference> =
                image.tags.iter().chain(&image.digests).chain(&image.platform_of).cloned().collect();
            let mut others = HashSet::new();
            for row in &names {
                let known = tx.platforms_of_reference(&row.name(), &label(row)?)?;
                others.extend(known.into_iter().map(|(_, other)| other).filter(|other| *other != id.0));
            }
            if others.is_empty() {
                return Ok(true);
            }
            for row in &names {
                let known = tx.platforms_of_reference(&row.name(), &label(row)?)?;
                let next = known.iter().map(|(_, other)| *other).find(|other| *other != id.0);
                let means = tx.reference(&row.name(), &label(row)?)?;
                if let (Some(next), Some(true)) = (next, means.map(|means| means == id.0)) {
                    let row = ReferenceRow { repository: row.name(), label: label(row)?, image_id: next };
                    tx.put_reference(&row, now_ms())?;
                }
            }
            tx.delete_image(&id.0)?;
            Ok(false)
        })?;
        if last {
            return self.remove(&reference.to_string(), how);
        }
        self.forget_config(id);
        let mut removed = vec![Removed::Deleted(id.to_string())];
        let layers = self.collect_garbage()?.layers;
        removed.extend(layers.iter().map(|chain_id| Removed::Deleted(chain_id.to_string())));
        Ok(removed)
    }

    /// Images that the names of `id` lead to for other platforms.
    fn beside(&self, id: &ImageId) -> Result<HashSet<Digest>, Error> {
        self.db.read(|tx| {
            let mut out = HashSet::new();
            for row in tx.references_of(&id.0)? {
                let known = tx.platforms_of_reference(&row.repository, &row.label)?;
                out.extend(known.into_iter().map(|(_, image)| image));
            }
            out.remove(&id.0);
            Ok(out)
        })
    }
}

impl Images {
    /// Removes `next` and what it was made from, as long as nothing names, uses or was made from them.
    fn remove_lonely_parents(
        &self,
        mut next: Option<ImageId>,
        how: &Remove<'_>,
    ) -> Result<Vec<Removed>, Error> {
        let mut removed = Vec::new();
        while let Some(id) = next {
            if !(how.users)(&id).is_empty() {
                break;
            }
            let gone = self.db.delete_durable(|tx| {
                let Ok(image) = load(tx, &id.0) else { return Ok::<_, Error>(None) };
                let family = Family::of(tx, &id)?;
                let named = !image.tags.is_empty() || !image.digests.is_empty();
                if family.has_children || named || !image.platform_of.is_empty() {
                    return Ok(None);
                }
                tx.delete_image(&id.0)?;
                Ok(Some(family.parent))
            })?;
            let Some(parent) = gone else { break };
            self.forget_config(&id);
            removed.push(Removed::Deleted(id.to_string()));
            next = parent;
        }
        Ok(removed)
    }
}

/// What an image was made from here, and whether others were made from it.
struct Family {
    parent: Option<ImageId>,
    has_children: bool,
}

impl Family {
    fn of(tx: &WriteTx<'_>, id: &ImageId) -> Result<Family, Error> {
        let pairs = tx.list_image_parents()?;
        let parent = pairs.iter().find(|(child, _)| *child == id.0).map(|(_, parent)| ImageId(*parent));
        Ok(Family { parent, has_children: pairs.iter().any(|(_, parent)| *parent == id.0) })
    }
}

/// Does what was planned. Returns the images that lost the last name that led to them.
fn perform(tx: &WriteTx<'_>, image: &Image, plan: &Plan) -> Result<HashSet<Digest>, Error> {
    let mut beside = HashSet::new();
    for reference in &plan.untag {
        let known = tx.platforms_of_reference(&reference.name(), &label(reference)?)?;
        beside.extend(known.into_iter().map(|(_, image)| image));
        tx.delete_reference(&reference.name(), &label(reference)?)?;
    }
    if plan.delete {
        tx.delete_image(&image.id.0)?;
    }
    beside.remove(&image.id.0);
    let mut lost = HashSet::new();
    for other in beside {
        if tx.references_of(&other)?.is_empty() && tx.platform_references_of(&other)?.is_empty() {
            lost.insert(other);
        }
    }
    Ok(lost)
}

fn plan(image: &Image, name: &str, force: bool, users: &[User], has_children: bool) -> Result<Plan, Error> {
    let all: Vec<Reference> = image.tags.iter().chain(&image.digests).cloned().collect();
    let id = image.id.to_string();
    if id.starts_with(name) || image.id.0.hex().starts_with(name) {
        if has_children {
            return Err(undeletable(image, "cannot be forced", "image has dependent child images"));
        }
        return plan_by_id(image, all, force, users);
    }
    let plan = plan_by_reference(image, &all, name, force, users)?;
    // It stays without a name, as a step on the way to its children.
    Ok(Plan { delete: plan.delete && !has_children, ..plan })
}

fn plan_by_id(image: &Image, all: Vec<Reference>, force: bool, users: &[User]) -> Result<Plan, Error> {
    check_running(image, users)?;
    if !force {
        if !all.is_empty() && !is_single(&all) {
            return Err(undeletable(image, "must be forced", "image is referenced in multiple repositories"));
        }
        if let Some(user) = users.first() {
            let what = format!("image is being used by stopped container {}", short(&user.container_id));
            return Err(undeletable(image, "must be forced", &what));
        }
    }
    Ok(Plan { untag: all, delete: true })
}

fn plan_by_reference(
    image: &Image,
    all: &[Reference],
    name: &str,
    force: bool,
    users: &[User],
) -> Result<Plan, Error> {
    let named = name.parse::<Reference>()?.with_default_tag();
    let named_label = label(&named)?;
    let is_named = |r: &Reference| r.name() == named.name() && label(r).is_ok_and(|l| l == named_label);
    if !force
        && is_single(all)
        && let Some(user) = users.first()
    {
        return Err(Error::Conflict {
            what: format!(
                "unable to remove repository reference {name:?} (must force) - container {} is using its \
                 referenced image {}",
                short(&user.container_id),
                image.id.short()
            ),
        });
    }
    let (mut untag, mut rest): (Vec<Reference>, Vec<Reference>) = all.iter().cloned().partition(is_named);
    // The digests of a repository go with its last tag.
    let is_sibling = |r: &Reference| r.name() == named.name();
    if named.digest().is_none() && !rest.iter().any(|r| is_sibling(r) && r.digest().is_none()) {
        let (siblings, others) = rest.into_iter().partition(is_sibling);
        untag.extend::<Vec<_>>(siblings);
        rest = others;
    }
    // Containers keep an image that lost its last name, and nobody is told.
    let in_use = users.iter().any(|user| user.running) || (!force && !users.is_empty());
    Ok(Plan { untag, delete: rest.is_empty() && !in_use })
}

fn check_running(image: &Image, users: &[User]) -> Result<(), Error> {
    match users.iter().find(|user| user.running) {
        Some(user) => {
            let what = format!("image is being used by running container {}", short(&user.container_id));
            Err(undeletable(image, "cannot be forced", &what))
        }
        None => Ok(()),
    }
}

fn undeletable(image: &Image, force: &str, what: &str) -> Error {
    Error::Conflict { what: format!("unable to delete {} ({force}) - {what}", image.id.short()) }
}

/// Whether all references are of one repository and at most one is a tag.
fn is_single(references: &[Reference]) -> bool {
    let tags = references.iter().filter(|r| r.digest().is_none()).count();
    let first = references.first().map(Reference::name);
    tags <= 1 && first.is_some() && references.iter().all(|r| Some(r.name()) == first)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Descriptor;

    fn image(references: &[&str]) -> Image {
        let id = Digest::of(b"config");
        let all: Vec<Reference> = references.iter().map(|r| r.parse().unwrap()).collect();
        let (digests, tags) = all.into_iter().partition(|r: &Reference| r.digest().is_some());
        let descriptor = Descriptor::new("", id, 0);
        Image {
            id: ImageId(id),
            target: descriptor.clone(),
            manifest: descriptor,
            chain_id: None,
            created: String::new(),
            added_ms: 0,
            tagged_ms: None,
            size_bytes: 0,
            tags,
            digests,
            platform_of: Vec::new(),
        }
    }

    fn check(references: &[&str], name: &str, force: bool, users: &[bool], expected: &str) {
        check_with(references, name, force, users, false, expected);
    }

    fn check_with(
        references: &[&str],
        name: &str,
        force: bool,
        users: &[bool],
        children: bool,
        expected: &str,
    ) {
        let image = image(references);
        let users: Vec<User> =
            users.iter().map(|&running| User { container_id: "c".repeat(64), running }).collect();
        let got = match plan(&image, name, force, &users, children) {
            Ok(plan) => {
                let untagged: Vec<String> = plan.untag.iter().map(Reference::familiar).collect();
                format!("{}{}", untagged.join(" "), if plan.delete { " + image" } else { "" })
            }
            Err(e) => e.to_string(),
        };
        assert_eq!(got.replace(&image.id.0.hex(), "ID").replace(&image.id.short(), "SHORT"), expected);
    }

    #[test]
    fn a_reference_goes_and_the_image_with_its_last() {
        let d = format!("a@{}", Digest::of(b"manifest"));
        check(&["a:1", "b:1"], "a:1", false, &[], "a:1");
        check(&["a:1", "a:2"], "a:1", false, &[], "a:1");
        check(&["a:latest"], "a", false, &[], "a:latest + image");
        check(&["a:1", &d], "a:1", false, &[], &format!("a:1 {d} + image"));
        check(&["a:1", "a:2", &d], "a:1", false, &[], "a:1");
        check(&["a:1", &d], &d, false, &[], &d);
        check(&["a:1", "b:1", &d], "a:1", false, &[], &format!("a:1 {d}"));
    }

    #[test]
    fn an_id_takes_all_references_of_one_repository() {
        let id = Digest::of(b"config").hex();
        let d = format!("a@{}", Digest::of(b"manifest"));
        check(&["a:1", &d], &id[..5], false, &[], &format!("a:1 {d} + image"));
        check(&[], &id, false, &[], " + image");
        let conflict = "conflict: unable to delete SHORT (must be forced) - image is referenced in multiple repositories";
        check(&["a:1", "b:1"], &id, false, &[], conflict);
        check(&["a:1", "a:2"], &format!("sha256:{id}"), false, &[], conflict);
        check(&["a:1", "b:1"], &id, true, &[], "a:1 b:1 + image");
    }

    #[test]
    fn containers_stand_against_it() {
        let id = Digest::of(b"config").hex();
        check(
            &["a:1"],
            &id,
            false,
            &[false],
            "conflict: unable to delete SHORT (must be forced) - image is being used by stopped container cccccccccccc",
        );
        check(&["a:1"], &id, true, &[false], "a:1 + image");
        check(
            &["a:1"],
            &id,
            true,
            &[true],
            "conflict: unable to delete SHORT (cannot be forced) - image is being used by running container cccccccccccc",
        );
        check(
            &["a:1"],
            "a:1",
            false,
            &[false],
            "conflict: unable to remove repository reference \"a:1\" (must force) - container cccccccccccc is using its referenced image SHORT",
        );
        check(&["a:1", "b:1"], "a:1", false, &[true], "a:1");
        check(&["a:1"], "a:1", true, &[true], "a:1");
        check(&["a:1"], "a:1", true, &[false], "a:1 + image");
    }

    #[test]
    fn children_keep_their_parent() {
        let id = Digest::of(b"config").hex();
        let expected =
            "conflict: unable to delete SHORT (cannot be forced) - image has dependent child images";
        check_with(&["a:1"], &id, false, &[], true, expected);
        check_with(&["a:1"], &id, true, &[], true, expected);
        check_with(&["a:1"], "a:1", false, &[], true, "a:1");
    }
}
