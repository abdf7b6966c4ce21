//! Makes the host's networks.
use super::{Docker, failed, host_labels, is_ours};
use crate::runtime::{
    Done, RuntimeError,
    names::{Names, first_address},
};
use bollard::{
    errors::Error,
    models::{Ipam, IpamConfig, NetworkCreateRequest},
    query_parameters as query,
};
use std::net::Ipv4Addr;

impl Docker {
    /// The internal bridge's first address, where the network is there.
    pub(super) async fn gateway(&self, names: &Names) -> Done<Option<Ipv4Addr>> {
        let client = self.client().await?;
        match client.inspect_network(names.network(), None::<query::InspectNetworkOptions>).await {
            Ok(there) => {
                let configs = there.ipam.and_then(|i| i.config).unwrap_or_default();
                Ok(configs.iter().find_map(|c| first_address(c.subnet.as_deref()?)))
            }
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(e) => Err(failed("inspect", names.network(), e)),
        }
    }

    pub(super) async fn make_network(
        &self,
        names: &Names,
        name: &str,
        subnet: Option<&str>,
        internal: bool,
    ) -> Done<()> {
        let client = self.client().await?;
        match client.inspect_network(name, None::<query::InspectNetworkOptions>).await {
            Ok(there) if is_ours(names, there.labels.as_ref()) => return Ok(()),
            Ok(_) => return Err(RuntimeError::Foreign { name: name.into() }),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(e) => return Err(failed("inspect", name, e)),
        }
        let config = subnet.map(|s| vec![IpamConfig { subnet: Some(s.into()), ..Default::default() }]);
        let request = NetworkCreateRequest {
            name: name.into(),
            driver: Some("bridge".into()),
            internal: Some(internal),
            ipam: Some(Ipam { config, ..Default::default() }),
            labels: Some(host_labels(names)),
            ..Default::default()
        };
        match client.create_network(request).await {
            Ok(_) => Ok(()),
            Err(Error::DockerResponseServerError { message, .. })
                if ["overlaps", "conflicts with network", "is already used on the host"]
                    .iter()
                    .any(|t| message.contains(t)) =>
            {
                Err(RuntimeError::SubnetTaken { name: name.into(), subnet: subnet.unwrap_or_default().into() })
            }
            Err(e) => Err(failed("create", name, e)),
        }
    }
}
