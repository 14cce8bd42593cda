//! The blkio and io controllers.

use super::{Target, missing};
use crate::convert::io_weight;
use crate::{Cgroup, Error, Warning, file};
use oci::runtime::{BlockIo, ThrottleDevice};

pub(super) fn apply(cgroup: &Cgroup, r: &BlockIo, warnings: &mut Vec<Warning>) -> Result<(), Error> {
    let controller = if cgroup.layout.index_of("blkio").is_some() { "blkio" } else { "io" };
    let set = |weight: Option<u16>| weight.filter(|&w| w != 0);
    // (file of v1, key of v2, devices)
    let throttles: [(&str, &str, &[ThrottleDevice]); 4] = [
        ("blkio.throttle.read_bps_device", "rbps", &r.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", "wbps", &r.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", "riops", &r.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", "wiops", &r.throttle_write_iops_device),
    ];
    let weights = set(r.weight).is_some() || set(r.leaf_weight).is_some() || !r.weight_device.is_empty();
    if !weights && throttles.iter().all(|(_, _, devices)| devices.is_empty()) {
        return Ok(());
    }
    let target = Target::new(cgroup, controller, "block I/O limit")?;
    for (name, key, devices) in throttles {
        for device in devices {
            let number = format!("{}:{}", device.major, device.minor);
            match (target.v2, device.rate) {
                (false, rate) => write_or_missing(&target, name, &format!("{number} {rate}"))?,
                (true, 0) => write_or_missing(&target, "io.max", &format!("{number} {key}=max"))?,
                (true, rate) => write_or_missing(&target, "io.max", &format!("{number} {key}={rate}"))?,
            }
        }
    }
    if weights && !write_weights(&target, r)? {
        // As Docker does: a weight is a wish, and only some I/O schedulers hear it.
        warnings.push(Warning("block I/O weight ignored: the I/O scheduler has none".into()));
    }
    Ok(())
}

/// False if some weight has no file to go to.
fn write_weights(target: &Target<'_>, r: &BlockIo) -> Result<bool, Error> {
    let names: &[(&str, &str)] = if target.v2 {
        &[("io.bfq.weight", "io.bfq.weight"), ("io.weight", "io.weight")]
    } else {
        &[("blkio.weight", "blkio.weight_device"), ("blkio.bfq.weight", "blkio.bfq.weight_device")]
    };
    let Some(&(name, by_device)) = names.iter().find(|(n, _)| file::exists(target.directory, n)) else {
        return Ok(false);
    };
    let value = |weight: u16| if name == "io.weight" { io_weight(weight) } else { u64::from(weight) };
    if let Some(weight) = r.weight.filter(|&w| w != 0) {
        target.write(name, &value(weight).to_string())?;
    }
    let mut all = true;
    if let Some(weight) = r.leaf_weight.filter(|&w| w != 0) {
        all &= target.write_if_there("blkio.leaf_weight", &weight.to_string())?;
    }
    for device in &r.weight_device {
        let number = format!("{}:{}", device.major, device.minor);
        if device.weight.is_none() && device.leaf_weight.is_none() {
            let reason = "it has neither weight nor leafWeight";
            return Err(Error::InvalidValue { limit: "block I/O weight", value: number, reason });
        }
        if let Some(weight) = device.weight.filter(|&w| w != 0) {
            all &= target.write_if_there(by_device, &format!("{number} {}", value(weight)))?;
        }
        if let Some(weight) = device.leaf_weight.filter(|&w| w != 0) {
            all &= target.write_if_there("blkio.leaf_weight_device", &format!("{number} {weight}"))?;
        }
    }
    Ok(all)
}

fn write_or_missing(target: &Target<'_>, name: &str, value: &str) -> Result<(), Error> {
    let there = target.write_if_there(name, value)?;
    if there { Ok(()) } else { Err(missing(if target.v2 { "io" } else { "blkio" }, name.to_owned())) }
}
