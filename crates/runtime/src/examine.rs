//! Reading, checking and planning a document without making anything of it: what the tests with hostile documents run.

use crate::namespaces::Namespaces;
use crate::plan::{Gate, Request, create};
use crate::procfs::Proc;
use crate::{Error, config};
use oci::runtime::Spec;

/// Reads the bytes of a `config.json` as `create` does, up to the clone; how many steps the child would walk.
///
/// # Errors
///
/// Those of `create` for the document.
pub fn examine(bytes: &[u8]) -> Result<usize, Error> {
    let parsed = oci::runtime::from_json(bytes);
    let spec = parsed.map_err(|source| Error::Document { path: "config.json".into(), source })?;
    plan_of(&spec, &Proc::open()?)
}

/// The same for a document that is read.
pub(crate) fn plan_of(spec: &Spec, proc: &Proc) -> Result<usize, Error> {
    let mut namespaces = Namespaces::open(spec.linux.as_ref().map_or(&[][..], |linux| &linux.namespaces))?;
    config::check(spec, &namespaces, proc)?;
    drop(config::resources(spec));
    drop(config::cgroup_path(spec, "id"));
    let request = Request {
        spec,
        rootfs: config::rootfs(spec, "/bundle".as_ref())?,
        bundle: "/bundle".as_ref(),
        cgroup: None,
        proc,
        gate: Gate::Parent,
        console: None,
        preserve_fds: 0,
        no_pivot: false,
        launcher: false,
        keyring: None,
        state: oci::runtime::State::default(),
    };
    Ok(create(request, &mut namespaces)?.steps.len())
}
