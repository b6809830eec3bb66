//! Week 4: a layered service, over gRPC and HTTP from one contract.
