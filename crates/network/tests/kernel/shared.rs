//! Endpoints that share an interface of the host.

use crate::host::{Container, address, bridge, by_gateway, endpoint, on_host, run};
use network::{
    Error, IpvlanFlag, IpvlanMode, MacvlanMode, Sharing, attach_ipvlan, attach_macvlan, create_sandbox,
    detach_shared, ensure_parent, list_parents, remove_parent,
};
use std::net::{IpAddr, Ipv4Addr};

/// Two containers on one interface of the host; and a VLAN of it as parent, where the kernel has them.
#[test]
fn macvlan() {
    on_host(|host| {
        run("ip", "link add lan0 type veth peer name lan1");
        run("ip", "link set lan0 up");
        run("ip", "link set lan1 up");
        assert!(matches!(ensure_parent("nowhere0", false, "n"), Err(Error::InterfaceNotFound { .. })));
        ensure_parent("lan0", false, "n").unwrap();
        assert_eq!(list_parents().unwrap(), [], "it was there");
        match ensure_parent("lan0.7", false, "n") {
            Err(e) if errors::HasKind::kind(&e) == errors::Kind::Unsupported => {
                println!("skipped: this kernel has no VLANs");
                assert_eq!(list_parents().unwrap(), [], "nothing is left of what cannot be");
            }
            made => {
                made.unwrap();
                ensure_parent("lan0.7", false, "n").unwrap();
                assert_eq!(list_parents().unwrap(), [("lan0.7".to_string(), "n".to_string())]);
                remove_parent("lan0.7", "another's").unwrap();
                assert_eq!(list_parents().unwrap().len(), 1);
                remove_parent("lan0.7", "n").unwrap();
                assert_eq!(list_parents().unwrap(), []);
            }
        }
        let net = bridge("unused0", "10.9.0.0/24");
        let join = |name: &str, number: u32, mode| {
            let path = host.path(name);
            create_sandbox(&path).unwrap();
            let config = by_gateway(endpoint(&net, number), None);
            attach_macvlan(&path, "lan0", mode, &config).unwrap();
            Container { path, address: address(&config) }
        };
        let (a, b) = (join("a", 2, MacvlanMode::Bridge), join("b", 3, MacvlanMode::Bridge));
        b.serve(80);
        assert_eq!(a.asks((b.address, 80)), Some(a.address));
        detach_shared(&a.path, Sharing::Macvlan, &[a.address.into()], None).unwrap();
        detach_shared(&a.path, Sharing::Macvlan, &[], Some(network::mac_for(a.address))).unwrap();
        assert_eq!(network::list_interfaces(&b.path).unwrap()[0].addresses, [IpAddr::V4(b.address)]);
        assert_eq!(network::list_interfaces(&a.path).unwrap(), []);
    });
}

/// Two containers on one interface of the host by each mode, with one hardware address; a kernel without says so.
#[test]
fn ipvlan() {
    on_host(|host| {
        run("ip", "link add lan0 type veth peer name lan1");
        run("ip", "link set lan0 up");
        run("ip", "link set lan1 up");
        let net = bridge("unused0", "10.9.0.0/24");
        let refused = Sharing::Ipvlan.check().err();
        if let Some(e) = refused {
            let text = errors::chain(&e);
            assert!(matches!(e, Error::NotInKernel { .. }), "{text}");
            assert!(text.contains("ipvlan") && text.contains("CONFIG_IPVLAN"), "{text}");
            let path = host.path("none");
            create_sandbox(&path).unwrap();
            let (mode, flag) = (IpvlanMode::L2, IpvlanFlag::Bridge);
            let attached = attach_ipvlan(&path, "lan0", mode, flag, &endpoint(&net, 2));
            assert_eq!(errors::chain(&attached.unwrap_err()), text, "the same without asking first");
            assert_eq!(network::list_interfaces(&path).unwrap(), []);
            println!("skipped: {text}");
            return;
        }
        for (n, mode) in [IpvlanMode::L2, IpvlanMode::L3, IpvlanMode::L3s].into_iter().enumerate() {
            let join = |name: &str, number: u32| {
                let path = host.path(&format!("{name}{n}"));
                create_sandbox(&path).unwrap();
                let gateway = (mode != IpvlanMode::L2).then_some(Ipv4Addr::UNSPECIFIED.into());
                let config = by_gateway(endpoint(&net, number), gateway);
                attach_ipvlan(&path, "lan0", mode, IpvlanFlag::Bridge, &config).unwrap();
                Container { path, address: address(&config) }
            };
            let (a, b) = (join("a", 2), join("b", 3));
            b.serve(80);
            assert_eq!(a.asks((b.address, 80)), Some(a.address), "{mode:?}");
            for container in [&a, &b] {
                detach_shared(&container.path, Sharing::Ipvlan, &[container.address.into()], None).unwrap();
                assert_eq!(network::list_interfaces(&container.path).unwrap(), []);
            }
        }
    });
}

/// A parent that leads nowhere, where the kernel has such interfaces.
#[test]
fn a_parent_that_leads_nowhere() {
    on_host(|_| match ensure_parent("dm-0123456789ab", true, "n") {
        Err(e @ Error::NotInKernel { .. }) => {
            assert!(errors::chain(&e).contains("CONFIG_DUMMY"), "{}", errors::chain(&e));
            assert_eq!(list_parents().unwrap(), []);
            println!("skipped: {}", errors::chain(&e));
        }
        made => {
            made.unwrap();
            ensure_parent("dm-0123456789ab", true, "n").unwrap();
            assert_eq!(list_parents().unwrap(), [("dm-0123456789ab".to_string(), "n".to_string())]);
            remove_parent("dm-0123456789ab", "n").unwrap();
            assert_eq!(list_parents().unwrap(), []);
        }
    });
}
