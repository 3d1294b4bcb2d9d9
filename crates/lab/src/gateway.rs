//! What lies between the VPC and the world: NAT gateway, IPv6 gateway, the outside and its client.
