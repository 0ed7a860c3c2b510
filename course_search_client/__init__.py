"""Client of the course-search app. It needs only httpx, and nothing of the product.

`CourseSearch` and `AsyncCourseSearch` have the same methods. An error of the app is an exception of `errors`, by its
code. An answer is the app's JSON object, typed: a field that a newer app adds is in it, too.
"""

from course_search_client.client import AsyncCourseSearch, CourseSearch
from course_search_client.errors import CourseSearchError
from course_search_client.version import VERSION

__all__ = ["AsyncCourseSearch", "CourseSearch", "CourseSearchError"]
__version__ = VERSION
