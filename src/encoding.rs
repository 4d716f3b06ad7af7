//! Plain data as bytes (postcard), behind what is there already.
//!
//! `postcard::to_stdvec` begins without room and grows, `to_extend` pushes byte by byte: either costs a record of a
//! call as much as its fields do.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

struct Behind(Vec<u8>);

impl Flavor for Behind {
    type Output = Vec<u8>;

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// The value behind these bytes; who knows about how long it is gives them room.
pub fn append<T: Serialize + ?Sized>(bytes: Vec<u8>, value: &T) -> postcard::Result<Vec<u8>> {
    postcard::serialize_with_flavor(value, Behind(bytes))
}

#[cfg(test)]
mod tests {
    use super::append;

    #[test]
    fn it_is_what_the_library_makes() {
        let value = (7_u64, "text", vec![Some(1_u8), None], [0.5_f64; 2]);
        let expect = [vec![9], postcard::to_stdvec(&value).expect("plain")].concat();
        assert_eq!(append(vec![9], &value).expect("plain"), expect);
    }
}
