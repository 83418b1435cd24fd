"""Small made-up files in the shape of the published ones."""

import gzip
import hashlib
import json

import pytest

from promptmm_pyg.data import (
    fetch,
    load_dataset,
    read_amazon,
    read_microlens,
    read_movielens,
)


def write_json(path, rows):
    path.write_bytes(gzip.compress('\n'.join(map(json.dumps, rows)).encode()))
    return path


def test_amazon_2018(tmp_path):
    review = {'reviewerID': 'u', 'asin': 'b', 'overall': 4.0, 'unixReviewTime': 9}
    product = {
        'asin': 'b',
        'title': 'Pen',
        'description': ['Blue', ' ink'],
        'brand': 'x',
    }
    product['imageURLHighRes'] = ['https://x/b.jpg']
    raw = read_amazon(
        write_json(tmp_path / 'r.jsonl.gz', [review, review | {'asin': 'c'}]),
        write_json(tmp_path / 'm.jsonl.gz', [product, {'asin': 'unsold'}]),
    )
    assert raw.interactions.to_pydict() == {
        'user_id': ['u', 'u'],
        'item_id': ['b', 'c'],
        'rating': [4.0, 4.0],
        'time': [9, 9],
    }
    assert raw.texts == {'b': 'Pen Blue ink', 'c': None}
    assert raw.titles == {'b': 'Pen'}
    assert raw.images == {'b': 'https://x/b.jpg', 'c': None}


def test_amazon_2023(tmp_path):
    review = {'user_id': 'u', 'asin': 'v', 'parent_asin': 'b', 'rating': 5.0}
    review['timestamp'] = 1_600_000_000_000
    product = {
        'parent_asin': 'b',
        'title': 'Pen',
        'features': ['Fine'],
        'description': [],
    }
    product['images'] = [{'large': 'https://x/l.jpg', 'hi_res': None}]
    raw = read_amazon(
        write_json(tmp_path / 'r.jsonl.gz', [review]),
        write_json(tmp_path / 'm.jsonl.gz', [product]),
    )
    assert raw.interactions['item_id'].to_pylist() == ['b']
    assert raw.texts == {'b': 'Pen Fine'}
    assert raw.images == {'b': 'https://x/l.jpg'}


def test_a_file_without_reviews_is_refused(tmp_path):
    file = write_json(tmp_path / 'm.jsonl.gz', [{'asin': 'b', 'title': 'Pen'}])
    with pytest.raises(ValueError, match="field 'reviewerID' in each line"):
        read_amazon(file, file)


def test_microlens(tmp_path):
    (tmp_path / 'MicroLens-50k_pairs.csv').write_text('user,item,timestamp\n1,7,99\n')
    (tmp_path / 'MicroLens-50k_titles.csv').write_text('item,title\n7,"Cats, dogs"\n')
    covers = tmp_path / 'MicroLens-50k_covers'
    covers.mkdir()
    (covers / '7.jpg').touch()
    raw = read_microlens(tmp_path)
    assert raw.interactions.to_pylist() == [
        {'user_id': '1', 'item_id': '7', 'time': 99}
    ]
    assert raw.texts == raw.titles == {'7': 'Cats, dogs'}
    assert raw.images == {'7': covers / '7.jpg'}
    (tmp_path / 'MicroLens-50k_pairs.csv').write_text('user,item\n1,7\n')
    with pytest.raises(ValueError, match=r'3 fields or more in each line .* line 2'):
        read_microlens(tmp_path)


@pytest.mark.parametrize(
    ('ratings', 'rating', 'movies', 'movie', 'text'),
    [
        ('u.data', '1\t7\t4\t99\n', 'u.item', '7|Amélie (2001)|x|y\n', 'Amélie (2001)'),
        (
            'ratings.dat',
            '1::7::4::99\n',
            'movies.dat',
            '7::Amélie (2001)::Comedy|Romance\n',
            'Amélie (2001) Comedy Romance',
        ),
        (
            'ratings.csv',
            'userId,movieId,rating,timestamp\n1,7,4.0,99\n',
            'movies.csv',
            'movieId,title,genres\n7,"Amélie (2001)",Comedy\n',
            'Amélie (2001) Comedy',
        ),
    ],
)
def test_movielens(tmp_path, ratings, rating, movies, movie, text):
    encoding = 'utf-8' if ratings.endswith('.csv') else 'latin-1'
    (tmp_path / ratings).write_text(rating, encoding=encoding)
    (tmp_path / movies).write_text(movie, encoding=encoding)
    (tmp_path / 'posters').mkdir()
    (tmp_path / 'posters' / '7.jpg').touch()
    raw = read_movielens(tmp_path)
    assert raw.interactions.to_pylist() == [
        {'user_id': '1', 'item_id': '7', 'rating': 4.0, 'time': 99}
    ]
    assert raw.texts == {'7': text}
    assert raw.titles == {'7': 'Amélie (2001)'}
    assert raw.images == {'7': tmp_path / 'posters' / '7.jpg'}


def test_what_is_read_is_a_data_set(tmp_path):
    lines = [f'{u}\t{i}\t4\t{u + i}' for u in range(6) for i in range(u, u + 6)]
    (tmp_path / 'u.data').write_text('\n'.join(lines))
    (tmp_path / 'u.item').write_text('0|T|x\n')
    data = load_dataset(read_movielens(tmp_path).interactions, seed=0)
    assert data.train['user'].num_nodes == 6


def test_a_folder_without_ratings_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'one of u\.data, ratings\.dat'):
        read_movielens(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"one '\*_pairs\.csv' \(got 0\)"):
        read_microlens(tmp_path)


def test_fetch_reads_a_mirror_once_and_checks_it(tmp_path):
    mirror = tmp_path / 'mirror'
    mirror.mkdir()
    (mirror / 'a.zip').write_bytes(b'content')
    sha256 = hashlib.sha256(b'content').hexdigest()
    words = ('https://example.org/data/a.zip', tmp_path / 'a.zip')
    with pytest.raises(ValueError, match='must have the SHA-256 0'):
        fetch(*words, '0' * 64, mirror=mirror.as_uri())
    assert not (tmp_path / 'a.zip').exists()
    assert fetch(*words, sha256, mirror=mirror.as_uri()).read_bytes() == b'content'
    (mirror / 'a.zip').unlink()
    fetch(*words, sha256)  # It is there: nothing is opened.
    (tmp_path / 'a.zip').write_bytes(b'changed')
    with pytest.raises(ValueError, match='Delete it and fetch it again'):
        fetch(*words, sha256)
