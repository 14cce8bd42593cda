//! What a shim and the daemon send each other.

use shim_api::frame;

pub(crate) fn run(mut data: &[u8]) {
    while let Ok(Some((kind, payload))) = frame::read(&mut data) {
        let mut out = Vec::new();
        frame::write(&mut out, kind, &payload).expect("what was read can be written");
        let (again, same) = frame::read(&mut out.as_slice()).expect("it was written").expect("it is whole");
        assert_eq!((again, same), (kind, payload));
    }
}
