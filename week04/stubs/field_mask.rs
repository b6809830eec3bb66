//! Field mask: an update changes the fields that the client has named. Your
//! turn.
//!
//! These rules are graded, and nothing else. The *parts* of a message are its
//! fields, and the parts of a map are its entries.
//!
//! Paths
//!
//! - `parse` returns a mask that selects the values at the end of all `paths`.
//!   `find` is given: it returns the steps of a path. The order of the paths
//!   has no effect. A path that is repeated, or that is inside another path of
//!   the mask, adds nothing. Without paths, nothing is selected.
//! - If `find` returns `None` for a path, `parse` returns `UnknownPath` with
//!   the first such path.
//! - The path `*` selects the whole message. It is an `UnknownPath` if it is
//!   not the only path.
//!
//! Updates
//!
//! - `update` returns the `stored` message, in which each selected value is
//!   replaced by the value in `sent`. All other values stay, also unknown
//!   fields (those that the descriptor does not contain).
//! - A selected value that is not set in `sent` is cleared: a field is then not
//!   set, and an entry is removed from its map. An `optional` field and a
//!   member of a oneof can be set to zero. This is a value like any other.
//! - A path into a message or a map changes only the part at its end. A stored
//!   message on the path stays set, even if its last part is cleared. A message
//!   or a map entry that is not stored is created only if a path sets a part of
//!   it.
//! - Setting a member of a oneof clears the other members. Clearing a member
//!   that is not set has no effect.
//! - A selected repeated field gets the elements that `replace_elements`
//!   returns. This function is given.
//! - `read` returns a message with the selected values of `stored`, and nothing
//!   else. A message or a map entry on the path is in the result only if a
//!   selected part of it is set.
//!
//! Requests
//!
//! - `of_request` parses the paths of the mask. If there is no mask, or it has
//!   no paths, it selects each value that is set in `sent` and has no parts:
//!   scalars, repeated fields, and the types of the package `google.protobuf`,
//!   which are single values. It selects them at any depth, also in maps. It
//!   does not select the messages around them, so an empty message selects
//!   nothing.
//! - `of_json` selects each value of the body that is not an object: also null,
//!   zero, and empty texts and lists. Of an object, it selects only the members,
//!   at any depth. So an empty object selects nothing. Keys may contain any
//!   character, so `quote` the keys in a path. No body contains a
//!   `google.protobuf.Struct`.
//! - `of_json` returns `NotAnObject` if there is no body or it is not an object.
//!   If the path of a selected value leads to no field and to no map entry, it
//!   returns `UnknownPath` with this path, whose keys are quoted by `quote`.
//!
//! Field behavior
//!
//! - A client cannot set an output-only field, at any depth. If a message is
//!   both stored and sent, its output-only fields keep the stored values. If it
//!   is only sent, they are not set. If it is cleared, they are cleared with
//!   it. An output-only member of a oneof is cleared if the client sets another
//!   member. `read` does return output-only fields.
//! - An element of a repeated field that equals a stored element, apart from
//!   output-only fields, keeps the output-only fields of the stored one. All
//!   other elements are new messages: their output-only fields are not set.
//!   `replace_elements` does this.
//! - If the update would set, change or clear an immutable field of a message
//!   that is stored, it returns `Immutable` with the name of the field. This
//!   includes a member of a oneof that is cleared because another member is
//!   set. An equal value is no change. If a message is created or cleared as a
//!   whole, its immutable fields are no error.
//! - To `read` a message and to `update` it with the result and with the same
//!   mask changes nothing.
//!
//! Help: the module `crate::field_path` is given. Read its documentation first.
//! It treats a message and a map in the same way: both have parts. `parts`
//! returns those that are set, and `take` and `put` change one of them. One
//! recursive function over these is enough for `update` and `read`. The method
//! `descriptor` of a message is in the trait `prost_reflect::ReflectMessage`.
//! Most tests use `profile.v1.Profile` (`week04/api/profile/v1/profile.proto`).

use prost_reflect::{DynamicMessage, MessageDescriptor};
use prost_types::FieldMask;
use serde_json::Value as Json;

use crate::field_path::{MaskError, Selection};

/// The fields of a message that a request selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    selection: Selection,
}

impl Mask {
    /// Returns a mask of `paths`. Without paths, it selects nothing.
    pub fn parse<P: AsRef<str>>(
        _descriptor: &MessageDescriptor,
        _paths: &[P],
    ) -> Result<Self, MaskError> {
        todo!("which paths are wrong, and which one is special?")
    }

    /// Returns the mask of an update request: the paths of `update_mask`, or
    /// the populated fields of `sent` if there are no paths.
    pub fn of_request(
        _update_mask: Option<&FieldMask>,
        _sent: &DynamicMessage,
    ) -> Result<Self, MaskError> {
        todo!("the client sent no mask: which fields does it want to change?")
    }

    /// Returns the mask of a JSON body: the keys that the client has written.
    pub fn of_json(
        _descriptor: &MessageDescriptor,
        _body: Option<&Json>,
    ) -> Result<Self, MaskError> {
        todo!("which paths has the client written?")
    }

    /// Returns a message that has only the selected fields of `stored`.
    pub fn read(&self, _stored: &DynamicMessage) -> DynamicMessage {
        todo!("how does this differ from an update of an empty message?")
    }

    /// Returns `stored` with the selected fields of `sent`. Both have the type
    /// of the mask.
    pub fn update(
        &self,
        _stored: &DynamicMessage,
        _sent: &DynamicMessage,
    ) -> Result<DynamicMessage, MaskError> {
        todo!("does the value of each part come from `stored` or from `sent`?")
    }
}
