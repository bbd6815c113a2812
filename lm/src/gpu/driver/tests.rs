//! What every driver of a GPU does.

use super::super::tests::{assert_close, gpus, noise};
use super::super::{Buffer, Element};
use super::*;

#[test]
fn copies_keep_their_order_and_take_what_was_there_when_they_were_asked_for() {
    // More than any driver keeps on its way, in pieces that divide nothing.
    const PIECE: usize = 1_000_003 * 4;
    const PIECES: usize = 11;
    for tested in gpus() {
        let gpu = &tested.gpu;
        let buffer = Buffer::<u32>::new(gpu, PIECE / 4 * PIECES).unwrap();
        let mut piece = vec![0_u8; PIECE];
        for number in 0..PIECES {
            piece[..4].copy_from_slice(&(number as u32).to_le_bytes());
            piece[PIECE - 4..].copy_from_slice(&(number as u32 + 100).to_le_bytes());
            gpu.upload(&piece, buffer.at(PIECE / 4 * number..PIECE / 4 * (number + 1)).address()).unwrap();
        }
        for number in 0..PIECES as u32 {
            let (first, last) = (PIECE / 4 * number as usize, PIECE / 4 * (number as usize + 1) - 1);
            assert_eq!(buffer.download(first..first + 2).unwrap(), [number, 0]);
            assert_eq!(buffer.download(last..last + 1).unwrap(), [number + 100]);
        }
        gpu.upload(&[], buffer.all().address()).unwrap();
        buffer.upload(1, &[7, 8, 9]).unwrap();
        gpu.copy(buffer.at(2..4).address(), buffer.at(5..7).address(), 8).unwrap();
        buffer.upload(2, &[1, 2]).unwrap();
        gpu.clear(buffer.at(1..2).address(), 4).unwrap();
        assert_eq!(buffer.download(0..8).unwrap(), [0, 0, 1, 2, 0, 8, 9, 0]);
        let mut whole = vec![1_u8; PIECE * PIECES];
        gpu.download(buffer.all().address(), &mut whole).unwrap();
        assert_eq!(whole[PIECE * 9..][..8], [9, 0, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn products_read_transposes_and_rows_apart() {
    let (rows, columns, inner) = (5, 9, 20);
    for tested in gpus() {
        let gpu = &tested.gpu;
        for case in 0..16 {
            let [left_transposed, right_transposed, to_floats, accumulate] =
                [1, 2, 4, 8].map(|bit| case & bit != 0);
            // Rows lie further apart than they are long.
            let (left_stride, right_stride, stride) = (24, 32, 11);
            let (left, right) =
                (tested.rounded(&noise(inner * 24, 1)), tested.rounded(&noise(inner * 32, 2)));
            let before = tested.rounded(&noise(rows * stride, 3));
            let (left_on_gpu, right_on_gpu) =
                (Buffer::rounded(gpu, &left).unwrap(), Buffer::rounded(gpu, &right).unwrap());
            let elements = Buffer::rounded(gpu, &before).unwrap();
            let floats = Buffer::from(gpu, &before).unwrap();
            let operand = |buffer: &Buffer<Element>, stride, transposed| {
                if transposed { buffer.all().columns(stride) } else { buffer.all().rows(stride) }
            };
            let product = Product {
                rows,
                columns,
                inner,
                left: operand(&left_on_gpu, left_stride, left_transposed),
                right: operand(&right_on_gpu, right_stride, right_transposed),
                to: if to_floats { floats.all().address() } else { elements.all().address() },
                stride,
                to_floats,
                accumulate,
            };
            gpu.multiply(&product).unwrap();
            let place = |row, column, stride, transposed| {
                if transposed { column * stride + row } else { row * stride + column }
            };
            let mut expected = before.clone();
            for row in 0..rows {
                for column in 0..columns {
                    let terms = (0..inner).map(|k| {
                        left[place(row, k, left_stride, left_transposed)]
                            * right[place(k, column, right_stride, right_transposed)]
                    });
                    let sum: f32 = terms.sum();
                    let to = &mut expected[row * stride + column];
                    *to = if accumulate { *to + sum } else { sum };
                }
            }
            let whole = 0..before.len();
            if to_floats {
                assert_close(&floats.download(whole).unwrap(), &expected, 1e-5);
            } else {
                assert_close(&elements.download(whole).unwrap(), &expected, tested.bound(1e-5, 2e-2));
            }
        }
    }
}

#[test]
fn a_recording_is_done_again_on_what_is_there_then() {
    for tested in gpus() {
        let gpu = &tested.gpu;
        let (from, to) = (Buffer::from(gpu, &[1_u32, 2]).unwrap(), Buffer::<u32>::zeros(gpu, 2).unwrap());
        let mut work = || {
            gpu.copy(from.at(0..1).address(), to.at(1..2).address(), 4)?;
            gpu.clear(from.at(1..2).address(), 4)
        };
        let Some(recording) = gpu.record(&mut work).unwrap() else { continue };
        assert_eq!(to.download(0..2).unwrap(), [0, 0]);
        for number in [3, 4] {
            from.upload(0, &[number, 5]).unwrap();
            recording.replay().unwrap();
            assert_eq!(
                (from.download(0..2).unwrap(), to.download(0..2).unwrap()),
                (vec![number, 0], vec![0, number])
            );
        }
        // What cannot be recorded is refused, and nothing of it stays.
        let mut kept = None;
        let refused = gpu.record(&mut || {
            kept = Some(Buffer::<u32>::new(gpu, 1)?);
            Ok(())
        });
        assert!(matches!(refused, Err(GpuError::Failed { .. })), "{refused:?}");
        assert!(to.download(0..2).is_ok());
        // Memory that is given back meanwhile is given back afterwards.
        let mut freed = Some(Buffer::<u32>::new(gpu, 1).unwrap());
        let recorded = gpu.record(&mut || {
            freed = None;
            gpu.clear(to.all().address(), 8)
        });
        recorded.unwrap().unwrap().replay().unwrap();
        assert_eq!(to.download(0..2).unwrap(), [0, 0]);
    }
}
