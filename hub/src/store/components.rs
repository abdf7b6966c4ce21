//! How a vector's components are stored: little-endian f32 or f16, or signed bytes with a scale. Pure.
use half::f16;

/// A vector's components, whatever they were written as; none if the bytes do not hold `dim` finite ones.
pub fn decode(encoding: &str, dim: usize, scale: f32, data: &[u8]) -> Option<Vec<f32>> {
    let components: Vec<f32> = match encoding {
        "f32" => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        "f16" => data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        "i8" => data.iter().map(|b| f32::from(b.cast_signed()) * scale).collect(),
        _ => return None,
    };
    let width = match encoding {
        "f32" => 4,
        "f16" => 2,
        _ => 1,
    };
    let whole = components.len() == dim && data.len() == dim * width;
    (whole && components.iter().all(|c| c.is_finite())).then_some(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_encodings_say_the_same() {
        let want = [0.5_f32, -1.0, 0.25];
        let f32s: Vec<u8> = want.iter().flat_map(|c| c.to_le_bytes()).collect();
        let f16s: Vec<u8> = want.iter().flat_map(|c| f16::from_f32(*c).to_le_bytes()).collect();
        let i8s: Vec<u8> = [64_i8, -128, 32].iter().map(|c| c.cast_unsigned()).collect();
        assert_eq!(decode("f32", 3, 1.0, &f32s).expect("f32"), want);
        assert_eq!(decode("f16", 3, 1.0, &f16s).expect("f16"), want);
        assert_eq!(decode("i8", 3, 1.0 / 128.0, &i8s).expect("i8"), want);
        assert!(decode("f32", 3, 1.0, &f32s[..11]).is_none());
        assert!(decode("f64", 3, 1.0, &f32s).is_none());
        assert!(decode("f32", 1, 1.0, &f32::NAN.to_le_bytes()).is_none());
        assert!(decode("i8", 1, f32::MAX, &[127]).is_none(), "beyond what an f32 holds");
    }
}
