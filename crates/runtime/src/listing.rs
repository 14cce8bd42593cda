//! `state` and `list`: how containers are.

use crate::Error;
use crate::procfs::Proc;
use crate::state::{ContainerId, Status, Store};
use std::path::PathBuf;

/// One row of `list`.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub oci_version: String,
    pub id: String,
    pub pid: i32,
    pub status: &'static str,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Name of the user, or the number of one without name. Empty for `state`, as with runc.
    pub owner: String,
}

/// The specification's state document, and more words as runc's.
pub fn state(store: &Store, id: &ContainerId) -> Result<Listed, Error> {
    listed(store, id, &Proc::open()?, &mut |_| String::new())
}

/// All containers, sorted by id. Those that vanish meanwhile are left out.
pub fn list(store: &Store) -> Result<Vec<Listed>, Error> {
    let proc = Proc::open()?;
    let mut rows = Vec::new();
    let mut names = users();
    for id in store.ids()? {
        match listed(store, &id, &proc, &mut names) {
            Ok(row) => rows.push(row),
            Err(Error::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(rows)
}

/// Names of users by number, from the host's file, read when first asked.
fn users() -> impl FnMut(u32) -> String {
    let mut text = None;
    move |uid| {
        let text = text.get_or_insert_with(|| std::fs::read_to_string("/etc/passwd").unwrap_or_default());
        let number = uid.to_string();
        let name = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        });
        name.unwrap_or(number)
    }
}

fn listed(
    store: &Store,
    id: &ContainerId,
    proc: &Proc,
    owner: &mut impl FnMut(u32) -> String,
) -> Result<Listed, Error> {
    let state = store.read(id)?;
    let status = store.status(id, &state, proc)?;
    let alive = !matches!(status, Status::Stopped | Status::Creating);
    Ok(Listed {
        oci_version: oci::runtime::OCI_VERSION.into(),
        id: state.id,
        pid: if alive { state.pid } else { 0 },
        status: status.as_str(),
        bundle: state.bundle,
        rootfs: state.rootfs,
        created: state.created,
        annotations: state.annotations,
        owner: owner(state.owner),
    })
}
