import zipfile
from pathlib import Path

import numpy as np
import pytest

from adamesh.data.movielens import read_movielens
from adamesh.errors import DataError

REAL = Path(__file__).parents[4] / "shared" / "data" / "ml-100k"


def flags(*ones):
    return "|".join("1" if place in ones else "0" for place in range(19))


# The same three ratings of the same two films in each format.
FORMATS = {
    "100k": {
        "u.data": "7\t20\t3\t100\n5\t20\t5\t200\n7\t10\t4\t300\n",
        "u.item": f"10|Amélie (2001)|01-Jan-2001||http://a|{flags(5, 14)}\n20|Alien|||http://b|{flags(15)}\n",
        "u.user": "5|17|F|artist|1\n7|40|M|writer|2\n",
    },
    "1m": {
        "ratings.dat": "7::20::3::100\n5::20::5::200\n7::10::4::300\n",
        "movies.dat": "10::Amélie (2001)::Comedy|Romance\n20::Alien::Sci-Fi\n",
        "users.dat": "5::F::1::2::1\n7::M::35::20::2\n",
    },
    "25m": {
        "ratings.csv": "userId,movieId,rating,timestamp\n7,20,3.0,100\n5,20,5.0,200\n7,10,4.0,300\n",
        "movies.csv": 'movieId,title,genres\n10,"Amélie, or (2001)",Comedy|Romance\n20,Alien,Sci-Fi\n',
    },
}


def folder(path, name, changed=()):
    path.mkdir(exist_ok=True)
    for file, text in (FORMATS[name] | dict(changed)).items():
        (path / file).write_text(text, encoding="utf-8" if file.endswith(".csv") else "latin-1")
    return path


def zipped(path, name):
    with zipfile.ZipFile(path / "ml.zip", "w") as archive:
        for file in sorted(folder(path / "ml", name).iterdir()):
            archive.write(file, f"ml-{name}/{file.name}")
    return path / "ml.zip"


@pytest.mark.parametrize("form", [folder, zipped])
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_ratings_from_a_folder_and_from_a_zip(tmp_path, name, form):
    ratings = read_movielens(form(tmp_path, name))
    assert ratings.users.tolist() == [1, 0, 1]
    assert ratings.items.tolist() == [1, 1, 0]
    assert ratings.values.tolist() == [3, 5, 4]
    assert ratings.times.tolist() == [100, 200, 300]
    assert ratings.genres.tolist() == [[1, 2], [3, 0]]  # Comedy, Romance; Sci-Fi
    assert ratings.num_genres == 4
    assert "real" in ratings.origin


@pytest.mark.parametrize("name", ["100k", "1m"])
def test_users_have_an_age_bucket_a_gender_and_an_occupation(tmp_path, name):
    ratings = read_movielens(folder(tmp_path, name))
    assert ratings.user_fields.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert ratings.field_sizes == (3, 3, 3)


def test_what_is_not_known_of_users_and_films_has_code_0(tmp_path):
    files = {"u.item": FORMATS["100k"]["u.item"].splitlines()[0], "u.user": "5|17|F|artist|1\n"}
    ratings = read_movielens(folder(tmp_path, "100k", files))
    assert ratings.user_fields.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert ratings.genres.tolist() == [[1, 2], [0, 0]]


def test_ratings_alone_are_enough(tmp_path):
    (tmp_path / "u.data").write_text(FORMATS["100k"]["u.data"])
    ratings = read_movielens(tmp_path)
    assert (ratings.user_fields.shape, ratings.field_sizes) == ((2, 0), ())
    assert (ratings.genres.shape, ratings.num_genres) == ((2, 0), 0)


@pytest.mark.parametrize(
    ("name", "file", "text", "what"),
    [
        ("100k", "u.data", "1\t2\t3\t4\n1\t2\t3\n", r"u\.data, line 2: has 3 values"),
        ("100k", "u.data", "1\t2\t3\t4\n1\tx\t3\t4\n", r"u\.data, line 2: has 'x' for the item"),
        ("100k", "u.data", "1\t2\t3\t4\n1\t2\t6\t4\n", r"u\.data, line 2: a rating must lie in 0\.5 to 5"),
        ("100k", "u.data", "1.5\t2\t3\t4\n", r"u\.data, line 1: all but the rating are whole"),
        ("100k", "u.data", "", r"u\.data: holds no ratings"),
        ("100k", "u.item", f"1|A|||u|{flags()}\n2|B|||u|{flags()[:-2]}\n", r"u\.item, line 2: is no movie"),
        ("100k", "u.item", f"x|A|||u|{flags()}\n", r"u\.item, line 1: is no movie"),
        ("100k", "u.user", "5|17|F|artist|1\n7|old|M|writer|2\n", r"u\.user, line 2: is no user: '7\|old"),
        ("1m", "ratings.dat", "1::2::3::4\n1:2::3::4\n", r"ratings\.dat, line 2: has 3 values"),
        ("1m", "movies.dat", "1::A::Drama\n2::B\n", r"movies\.dat, line 2: is no movie: '2::B'"),
        ("1m", "users.dat", "5::F::1::2\n", r"users\.dat, line 1: is no user"),
        ("25m", "ratings.csv", "user,item\n", r"ratings\.csv, line 1: must be 'userId,movieId"),
        ("25m", "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,4\n1,2,,4\n", r"ratings\.csv, line 3: has ''"),
        (
            "25m",
            "movies.csv",
            'movieId,title,genres\n1,"A\n",Drama\n2,C\n',
            r"movies\.csv, line 4: is no movie: '2,C",
        ),
        ("25m", "movies.csv", 'movieId,title,genres\n1,"A,Drama\n', r"movies\.csv, line 2: is no movie"),
        ("25m", "movies.csv", "1,A,Drama\n", r"movies\.csv, line 1: .*movieId,title,genres"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_number(tmp_path, name, file, text, what):
    with pytest.raises(DataError, match=what) as caught:
        read_movielens(folder(tmp_path, name, {file: text}))
    assert "\n" not in str(caught.value)


def test_text_in_another_encoding_is_named_with_its_line(tmp_path):
    (folder(tmp_path, "25m") / "movies.csv").write_bytes(b"movieId,title,genres\n1,Am\xe9lie,Drama\n")
    with pytest.raises(DataError, match=r"movies\.csv, line 2: is not utf-8 text"):
        read_movielens(tmp_path)


def test_what_is_no_movielens_is_refused_with_what_was_looked_for(tmp_path):
    known = r"u\.data or ratings\.dat or ratings\.csv"
    with pytest.raises(DataError, match=r"holds no ratings; .*" + known):
        read_movielens(tmp_path)
    folder(tmp_path, "100k")
    folder(tmp_path, "1m")
    with pytest.raises(DataError, match=r"holds u\.data and ratings\.dat; .*exactly one of " + known):
        read_movielens(tmp_path)
    (tmp_path / "cut.zip").write_bytes(zipped(tmp_path, "1m").read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.zip: is no readable folder or zip"):
        read_movielens(tmp_path / "cut.zip")
    with pytest.raises(DataError, match="absent: no such folder"):
        read_movielens(tmp_path / "absent")


@pytest.mark.skipif(not REAL.is_dir(), reason="MovieLens 100k is not at ../shared/data/ml-100k")
def test_the_real_ml_100k_is_what_its_own_info_file_says():
    ratings = read_movielens(REAL)
    counts = [int(line.split()[0]) for line in (REAL / "u.info").read_text().splitlines()]
    assert [len(ratings.user_fields), len(ratings.genres), len(ratings)] == counts
    assert ratings.field_sizes == (8, 3, 22)
    assert ratings.num_genres == 19
    assert np.unique(ratings.values).tolist() == [1, 2, 3, 4, 5]
    assert (ratings.genres > 0).any(axis=1).sum() == 1680  # two are of genre "unknown"
